// @anthropic-ai/sdk: its tool runner over messages. Arguments and output: see tests/clients/conversation.py.
import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";

const [url, model, question, task] = process.argv.slice(2);
const client = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
const asked = { model, max_tokens: 200, messages: [{ role: "user", content: question }] };
const getWeather = betaTool({
  name: "get_weather",
  description: "Weather of a city",
  inputSchema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  run: ({ city }) => `{"city": "${city}", "temperature": 18, "sky": "sunny"}`,
});
const withTools = { ...asked, messages: [{ role: "user", content: task }], tools: [getWeather] };
const textOf = (message) => message.content.map((block) => block.text ?? "").join("");

async function streamed() {
  const pieces = [];
  const stream = client.messages.stream(asked).on("text", (piece) => pieces.push(piece));
  await stream.finalMessage();
  return pieces;
}

async function toolStreamed() {
  let pieces = [];
  for await (const stream of client.beta.messages.toolRunner({ ...withTools, stream: true })) {
    pieces = [];
    for await (const event of stream) {
      if (event.type === "content_block_delta" && event.delta.type === "text_delta") {
        pieces.push(event.delta.text);
      }
    }
  }
  return pieces;
}

const answers = {
  plain: textOf(await client.messages.create(asked)),
  streamed: await streamed(),
  tool: textOf(await client.beta.messages.toolRunner(withTools)),
  tool_streamed: await toolStreamed(),
};
console.log(JSON.stringify(answers));
