// LangChain for JavaScript: an agent over one of its model classes. Arguments and output: see
// tests/clients/conversation.py; the argument behind them is the provider.
import { ChatAnthropic } from "@langchain/anthropic";
import { AIMessageChunk } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { createAgent, tool } from "langchain";
import { z } from "zod";

const [url, name, question, task, provider] = process.argv.slice(2);
const ask = { model: name, temperature: 0, maxRetries: 0, apiKey: "none" };
const model = {
  openai: () => new ChatOpenAI({ ...ask, configuration: { baseURL: `${url}/v1` } }),
  responses: () => new ChatOpenAI({ ...ask, useResponsesApi: true, configuration: { baseURL: `${url}/v1` } }),
  anthropic: () => new ChatAnthropic({ ...ask, anthropicApiUrl: url }),
}[provider]();
const getWeather = tool(async ({ city }) => `{"city": "${city}", "temperature": 18, "sky": "sunny"}`, {
  name: "get_weather",
  description: "Weather of a city",
  schema: z.object({ city: z.string() }),
});
const agent = createAgent({ model, tools: [getWeather] });
const messages = [{ role: "user", content: task }];

async function streamed() {
  const pieces = [];
  for await (const chunk of await model.stream(question)) if (chunk.text) pieces.push(chunk.text);
  return pieces;
}

async function toolStreamed() {
  const pieces = [];
  for await (const [chunk] of await agent.stream({ messages }, { streamMode: "messages" })) {
    if (AIMessageChunk.isInstance(chunk) && chunk.text) pieces.push(chunk.text);
  }
  return pieces;
}

const answers = {
  plain: (await model.invoke(question)).text,
  streamed: await streamed(),
  tool: (await agent.invoke({ messages })).messages.at(-1).text,
  tool_streamed: await toolStreamed(),
};
console.log(JSON.stringify(answers));
