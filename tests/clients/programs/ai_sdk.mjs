// The Vercel AI SDK with one of its providers. Arguments and output: see tests/clients/conversation.py; the
// argument behind them is the provider.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, isStepCount, streamText, tool } from "ai";
import { z } from "zod";

const [url, name, question, task, provider] = process.argv.slice(2);
const settings = { name: "vram-llm", baseURL: `${url}/v1`, apiKey: "none" };
const model = {
  compatible: () => createOpenAICompatible(settings)(name),
  chat: () => createOpenAI(settings).chat(name),
  responses: () => createOpenAI(settings)(name),
  anthropic: () => createAnthropic(settings)(name),
}[provider]();
const tools = {
  get_weather: tool({
    description: "Weather of a city",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `{"city": "${city}", "temperature": 18, "sky": "sunny"}`,
  }),
};
const ask = { model, temperature: 0, maxRetries: 0 };
const withTools = { ...ask, prompt: task, tools, stopWhen: isStepCount(3) };

async function streamed(options) {
  const pieces = [];
  for await (const part of streamText({ ...options, onError() {} }).fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta") pieces.push(part.text);
  }
  return pieces;
}

const answers = {
  plain: (await generateText({ ...ask, prompt: question })).text,
  streamed: await streamed({ ...ask, prompt: question }),
  tool: (await generateText(withTools)).text,
  tool_streamed: await streamed(withTools),
};
console.log(JSON.stringify(answers));
