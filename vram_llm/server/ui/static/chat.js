// A chat with the served model over POST v1/chat/completions.
import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { ApiError, ask, askJson, events } from "./api.js";
import { count, rate, seconds } from "./format.js";

const MAX_IMAGE_BYTES = 20e6;

// Text with its fenced code set apart.
function Text({ text }) {
  return text.split(/^```/m).map((part, i) => {
    if (i % 2 === 0) return part && html`<span key=${i}>${part}</span>`;
    const [, language, code] = /^([^\n]*)\n?([^]*)$/.exec(part);
    return html`<pre key=${i} tabindex="0" aria-label="code ${language}"><code>${code.replace(/\n$/, "")}</code></pre>`;
  });
}

function Message({ message }) {
  const { role, text, thinking, images, note, failed, isOpen } = message;
  return html`<div class="message ${role}">
    <span class="who">${role === "user" ? "You" : "Model"}</span>
    ${thinking && html`<details><summary>Thinking, ${count(thinking.length)} characters</summary><div class="thinking">${thinking}</div></details>`}
    ${images?.map((url, i) => html`<img key=${i} src=${url} alt="attached image ${i + 1}" />`)}
    <div class="text"><${Text} text=${text} />${isOpen && html`<span class="caret" aria-hidden="true">▍</span>`}</div>
    ${failed && html`<p class="warning">⚠ ${failed}</p>`}
    ${note && html`<p class="note">${note}</p>`}
  </div>`;
}

const forApi = ({ role, text, images }) => ({
  role,
  content: images?.length
    ? [...images.map((url) => ({ type: "image_url", image_url: { url } })), { type: "text", text }]
    : text,
});

const asUrl = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(file);
});

const noteOf = (usage, began, first) => {
  const now = performance.now();
  if (!usage) return "";
  const speed = first && usage.completion_tokens > 1 ? (1000 * (usage.completion_tokens - 1)) / (now - first) : null;
  const cached = usage.prompt_tokens_details?.cached_tokens;
  return [
    `${count(usage.prompt_tokens)} prompt tokens${cached ? `, ${count(cached)} of them cached` : ""}`,
    `${count(usage.completion_tokens)} generated`,
    first && `first after ${seconds((first - began) / 1000)}`,
    speed && `${rate(speed)} tok/s`,
  ].filter(Boolean).join(" · ");
};

export function Chat({ model, choice, isGone, onRefused }) {
  const [messages, setMessages] = useState([]);
  const [images, setImages] = useState([]);
  const [takesImages, setTakesImages] = useState(false);
  const [status, setStatus] = useState("");
  const input = useRef(null);
  const list = useRef(null);
  const running = useRef(null);
  const isBusy = messages.at(-1)?.isOpen;

  useEffect(() => {
    if (!model) return;
    const asked = choice
      ? askJson(`v1/models/${encodeURIComponent(model)}`).then((card) => card.architecture.input_modalities.includes("image"))
      : askJson("props").then((props) => props.modalities.vision);
    asked.then(setTakesImages, () => setTakesImages(false));
  }, [model]);
  useEffect(() => {
    const box = list.current;
    if (box && box.scrollHeight - box.scrollTop - box.clientHeight < 120) box.scrollTop = box.scrollHeight;
  }, [messages]);

  async function answer(history) {
    const own = { role: "assistant", text: "", thinking: "", isOpen: true };
    const show = () => setMessages([...history, { ...own }]);
    const began = performance.now();
    let first = null, usage = null;
    running.current = new AbortController();
    show();
    try {
      const reply = await ask("v1/chat/completions", {
        method: "POST", signal: running.current.signal,
        body: { model: model ?? "", messages: history.map(forApi), stream: true, stream_options: { include_usage: true } },
      });
      for await (const data of events(reply)) {
        if (data === "[DONE]") break;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError(0, chunk.error.message);
        usage = chunk.usage ?? usage;
        const { delta = {}, finish_reason: reason } = chunk.choices?.[0] ?? {};
        if (delta.content || delta.reasoning_content) first ??= performance.now();
        own.text += delta.content ?? "";
        own.thinking += delta.reasoning_content ?? "";
        if (reason === "length") own.failed = "cut off at the end of the context or of max_tokens";
        show();
      }
    } catch (error) {
      if (error.status === 401) onRefused();
      own.failed = error.name === "AbortError" ? "stopped" : error instanceof ApiError ? error.message : "the connection broke";
    }
    own.isOpen = false;
    own.note = noteOf(usage, began, first);
    show();
    setStatus("The answer has ended.");
    input.current?.focus();
  }

  const send = (event) => {
    event?.preventDefault();
    const text = input.current.value.trim();
    if (isBusy || (!text && !images.length)) return;
    input.current.value = "";
    setImages([]);
    setStatus("The model answers.");
    answer([...messages, { role: "user", text, images }]);
  };
  const onKey = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
  };
  const attach = async (event) => {
    const files = [...event.target.files].filter((file) => file.size <= MAX_IMAGE_BYTES);
    event.target.value = "";
    const urls = await Promise.all(files.map(asUrl));
    setImages((now) => [...now, ...urls]);
  };

  return html`<section id="chat" aria-labelledby="chat-title">
    <h2 id="chat-title">Chat</h2>
    ${choice}
    <div class="messages" ref=${list} tabindex="0" role="region" aria-label="Messages">
      ${messages.length ? messages.map((message, i) => html`<${Message} key=${i} message=${message} />`)
        : html`<p class="dim">Nothing yet. A chat here is like any other client's; the server stores none of it.</p>`}
    </div>
    <p class="hidden" role="status">${status}</p>
    <form onSubmit=${send}>
      ${images.length > 0 && html`<div class="attached">${images.map((url, i) => html`<button type="button" key=${i}
        class="small" aria-label="Remove image ${i + 1}" onClick=${() => setImages(images.filter((_, k) => k !== i))}>
        <img src=${url} alt="" /> ×</button>`)}</div>`}
      <textarea ref=${input} rows="2" aria-label="Message" placeholder="Message; Enter sends, Shift+Enter begins a line" onKeyDown=${onKey}></textarea>
      <div class="buttons">
        ${isBusy ? html`<button type="button" onClick=${() => running.current?.abort()}>Stop</button>`
          : html`<button type="submit" class="main" disabled=${isGone}>Send</button>`}
        ${takesImages && html`<label class="button">Image<input class="hidden" type="file" accept="image/*" multiple onChange=${attach} /></label>`}
        <button type="button" disabled=${isBusy || !messages.length} onClick=${() => setMessages([])}>New chat</button>
      </div>
    </form>
  </section>`;
}
