// Requests to this server. The API key is kept in this variable and nowhere else.
let apiKey = "";

export const setKey = (key) => { apiKey = key; };

export class ApiError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

// The reply of the server; throws ApiError for a refusal, and TypeError or a DOMException for no reply.
export async function ask(path, { method = "GET", body, signal } = {}) {
  const headers = { accept: "application/json" };
  if (apiKey) headers.authorization = `Bearer ${apiKey}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const reply = await fetch(path, {
    method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store",
  });
  if (!reply.ok) throw await refusal(reply);
  return reply;
}

export const askJson = async (path, options) => (await ask(path, options)).json();

async function refusal(reply) {
  let error = {};
  try {
    error = (await reply.json()).error ?? {};
  } catch { /* a proxy's page */ }
  return new ApiError(reply.status, error.message ?? `The server answers ${reply.status}`, error.code);
}

// The data of each server-sent event of a reply.
export async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (waiting + value).split(/\r?\n\r?\n/);
    waiting = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).trimStart()).join("\n");
      if (data) yield data;
    }
  }
}
