// The page: asks GET status each second, and says so when there is no answer.
import { html, render, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { ApiError, askJson, setKey } from "./api.js";
import { clock, count, seconds } from "./format.js";
import { Chat } from "./chat.js";
import { History, Live, Requests } from "./live.js";
import { Logs } from "./logs.js";
import { ModelChoice, Models } from "./models.js";
import { Rig } from "./rig.js";
import { WhatIf } from "./whatif.js";

const EVERY_MS = 1000;
const MOST_MS = 4000; // without an answer the server counts as gone
const PLACES = [["rig", "Rig"], ["live", "Live"], ["requests", "Requests"], ["chat", "Chat"], ["what-if", "What if"], ["logs", "Log"]];

// The status, again and again. `goneSince` is set while the server does not answer.
function useStatus() {
  const [state, setState] = useState({ status: null, goneSince: null, refusal: null, tick: 0 });
  const history = useRef(new History());
  const wake = useRef(() => {});
  useEffect(() => {
    let timer = 0, isEnded = false, tick = 0, goneSince = null;
    const look = async () => {
      clearTimeout(timer);
      if (!document.hidden) {
        try {
          const status = await askJson("status", { signal: AbortSignal.timeout(MOST_MS) });
          goneSince = null;
          history.current.add(Date.now() / 1000, status.load);
          setState({ status, goneSince, refusal: null, tick: ++tick });
        } catch (error) {
          if (error instanceof ApiError && error.status < 500) {
            goneSince = null;
            setState({ status: null, goneSince, refusal: error, tick });
          } else {
            goneSince ??= Date.now() / 1000;
            setState((now) => ({ ...now, goneSince, tick }));
          }
        }
      }
      if (!isEnded) timer = setTimeout(look, EVERY_MS);
    };
    wake.current = look;
    document.addEventListener("visibilitychange", look);
    look();
    return () => { isEnded = true; clearTimeout(timer); document.removeEventListener("visibilitychange", look); };
  }, []);
  return { ...state, history: history.current, look: () => wake.current() };
}

function KeyDialog({ isWanted, refusal, onKey }) {
  const dialog = useRef(null);
  const input = useRef(null);
  const [hasTried, setTried] = useState(false);
  useEffect(() => {
    if (isWanted && !dialog.current.open) dialog.current.showModal();
    if (!isWanted && dialog.current.open) dialog.current.close();
  }, [isWanted]);
  const use = (event) => {
    event.preventDefault();
    setKey(input.current.value.trim());
    input.current.value = "";
    setTried(true);
    onKey();
  };
  return html`<dialog ref=${dialog} aria-labelledby="key-title"><form onSubmit=${use}>
    <h2 id="key-title">API key</h2>
    <p>This server asks for a key. The page keeps it in memory until it is closed, and stores it nowhere.</p>
    <label class="field"><span>Key</span><input ref=${input} type="password" autocomplete="off" required autofocus /></label>
    ${hasTried && refusal && html`<p class="dim" role="status">${refusal.message}</p>`}
    <button type="submit" class="main">Use this key</button>
  </form></dialog>`;
}

function Banner({ status, goneSince }) {
  const wasGone = useRef(null);
  const [backAt, setBackAt] = useState(null);
  useEffect(() => {
    if (goneSince) { wasGone.current = goneSince; setBackAt(null); return undefined; }
    if (!wasGone.current) return undefined;
    wasGone.current = null;
    setBackAt(Date.now() / 1000);
    const timer = setTimeout(() => setBackAt(null), 8000);
    return () => clearTimeout(timer);
  }, [goneSince]);
  const engine = status?.engine;
  let kind = "", text = "";
  if (goneSince) [kind, text] = ["bad", `The server does not answer since ${clock(goneSince)}. The figures are old; the page asks again each second.`];
  else if (engine && engine.state !== "ready") [kind, text] = ["bad", `The engine is ${engine.state}${engine.reason ? `: ${engine.reason}` : ""}. Requests wait for it.`];
  else if (backAt) [kind, text] = ["good", `The server is back since ${clock(backAt)}.`];
  return html`<div class="banner ${kind}" role="status" data-state=${goneSince ? "gone" : engine?.state ?? ""}>${text}</div>`;
}

function Head({ status, goneSince }) {
  const { model, models, engine, version } = status ?? {};
  const state = goneSince ? "gone" : engine?.state ?? "connecting";
  const size = models ? `${count(models.length)} models` : `${count(model?.n_ctx)} tokens of context, ${count(model?.parallel)} sequences`;
  const places = models ? [["models", "Models"], ...PLACES.filter(([id]) => id !== "what-if")] : PLACES;
  return html`<header>
    <a class="skip" href="#main">Skip to the content</a>
    <div class="title"><h1>${models ? models.map((each) => each.id).join(", ") : model?.id ?? "vram-llm"}</h1> <span class="state ${state}">${state}</span></div>
    <p class="sub">${status && html`vram-llm ${version} · ${size} · up ${seconds(engine?.uptime_s)}
      ${engine?.n_restarts ? ` · ${engine.n_restarts} restarts` : ""}`}</p>
    <nav aria-label="Parts of the page">${places.map(([id, text]) => html`<a key=${id} href="#${id}">${text}</a>`)}</nav>
  </header>`;
}

function App() {
  const { status, goneSince, refusal, tick, history, look } = useStatus();
  const [isRefused, setRefused] = useState(false);
  const [chosen, setChosen] = useState(null);
  const models = status?.models;
  const model = models?.some((each) => each.id === chosen) ? chosen : status?.model?.id;
  const wantsKey = isRefused || refusal?.status === 401;
  const onKey = () => { setRefused(false); look(); };
  useEffect(() => { if (status?.model?.id) document.title = `${status.model.id} · vram-llm`; }, [status?.model?.id]);
  return html`<${Head} status=${status} goneSince=${goneSince} />
    <${Banner} status=${status} goneSince=${goneSince} />
    <${KeyDialog} isWanted=${wantsKey} refusal=${refusal} onKey=${onKey} />
    <main id="main" tabindex="-1" class=${goneSince ? "stale" : ""}>
      <div class="left">
        ${refusal && refusal.status !== 401 && html`<p class="warning">⚠ ${refusal.message}</p>`}
        ${!status && !refusal && html`<p class="dim">Asking the server …</p>`}
        ${models && html`<${Models} models=${models} />`}
        ${status && html`<${Rig} status=${status} /><${Live} status=${status} history=${history} tick=${tick} />
          <${Requests} requests=${status.requests} />`}
        ${!wantsKey && html`${!models && html`<${WhatIf} devices=${status?.devices ?? []} />`}<${Logs} />`}
      </div>
      <${Chat} model=${model} choice=${models && html`<${ModelChoice} models=${models} chosen=${model} onChoice=${setChosen} />`} isGone=${!!goneSince} onRefused=${() => setRefused(true)} />
    </main>`;
}

render(html`<${App} />`, document.getElementById("app"));
