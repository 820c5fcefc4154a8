// openai-node: its tool runner over chat completions. Arguments and output: see tests/clients/conversation.py.
import OpenAI from "openai";

const [url, model, question, task] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const asked = { model, temperature: 0, messages: [{ role: "user", content: question }] };
const withTools = {
  model,
  temperature: 0,
  messages: [{ role: "user", content: task }],
  tools: [
    {
      type: "function",
      function: {
        name: "get_weather",
        description: "Weather of a city",
        parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
        parse: JSON.parse,
        function: ({ city }) => `{"city": "${city}", "temperature": 18, "sky": "sunny"}`,
      },
    },
  ],
};

async function streamed() {
  const pieces = [];
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
    if (chunk.choices[0]?.delta.content) pieces.push(chunk.choices[0].delta.content);
  }
  return pieces;
}

async function toolStreamed() {
  const pieces = [];
  const runner = client.chat.completions.runTools({ ...withTools, stream: true });
  runner.on("content", (piece) => pieces.push(piece));
  await runner.finalContent();
  return pieces;
}

const answers = {
  plain: (await client.chat.completions.create(asked)).choices[0].message.content,
  streamed: await streamed(),
  tool: await client.chat.completions.runTools(withTools).finalContent(),
  tool_streamed: await toolStreamed(),
};
console.log(JSON.stringify(answers));
