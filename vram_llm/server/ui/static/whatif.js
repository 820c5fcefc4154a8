// What-if plans of the served model: other cards, context, KV type, reserve, objective.
import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { askJson } from "./api.js";
import { bytes, count, rate, tokens } from "./format.js";
import { Bar, Layers, Legend, plannedSegments } from "./rig.js";

const DEBOUNCE_MS = 60;
const MIB = 2 ** 20;
const CARDS_AT_MOST = 8;

// Lengths of the slider: steps of a quarter between powers of two, up to the trained length.
function lengths(trained, served) {
  const most = Math.max(trained || 131072, served);
  const found = new Set([served, most]);
  for (let base = 1024; base <= most; base *= 2) {
    for (const quarter of [4, 5, 6, 7]) if ((base * quarter) / 4 <= most) found.add((base * quarter) / 4);
  }
  return [...found].sort((a, b) => a - b);
}

// Calls `ask` for the last value alone, once at a time: an answer to an older value is never shown.
function useLatest(value, ask) {
  const [state, setState] = useState({});
  const work = useRef({ isBusy: false, next: null, timer: 0 });
  useEffect(() => {
    const own = work.current;
    if (value === null) return undefined;
    const run = async () => {
      if (own.isBusy) return;
      own.isBusy = true;
      while (own.next !== null) {
        const asked = own.next;
        own.next = null;
        const began = performance.now();
        let found;
        try {
          found = { reply: await ask(asked), ms: performance.now() - began };
        } catch (error) {
          found = { error };
          if (error.status === 429 && own.next === null) { // another page of this client asks too
            await new Promise((resolve) => setTimeout(resolve, 500));
            own.next ??= asked;
          }
        }
        if (own.next === null) setState(found);
      }
      own.isBusy = false;
    };
    own.next = value;
    clearTimeout(own.timer);
    own.timer = setTimeout(run, DEBOUNCE_MS);
    return () => clearTimeout(own.timer);
  }, [JSON.stringify(value)]);
  return state;
}

function Cards({ cards, options, setCards }) {
  const change = (i, name) => setCards(cards.map((card, k) => (k === i ? name : card)));
  return html`<datalist id="catalog">${options.cards.map((card) => html`<option key=${card} value=${card} />`)}</datalist>
    ${cards.map((card, i) => html`<div class="row" key=${i}>
      <input list="catalog" value=${card} aria-label="Card ${i + 1}" onChange=${(event) => change(i, event.target.value)} />
      <button type="button" class="small" aria-label="Remove card ${i + 1}" disabled=${cards.length < 2}
        onClick=${() => setCards(cards.filter((_, k) => k !== i))}>×</button></div>`)}
    <button type="button" class="small" disabled=${cards.length >= CARDS_AT_MOST} onClick=${() => setCards([...cards, cards.at(-1)])}>Add a card</button>`;
}

function Slider({ label, text, ...input }) {
  return html`<label class="field"><span>${label} <b aria-hidden="true">${text}</b></span><input type="range" aria-label=${label} aria-valuetext=${text} ...${input} /></label>`;
}

function Choice({ label, value, values, onChange }) {
  return html`<label class="field"><span>${label}</span><select value=${value} onChange=${(event) => onChange(event.target.value)}>
    ${values.map((each) => html`<option key=${each} value=${each}>${each}</option>`)}</select></label>`;
}

function between(range) {
  return range ? ` (${rate(range.low)} to ${rate(range.high)} in nine of ten)` : "";
}

function Answer({ reply, ms, served }) {
  const speed = reply.tokens_per_s == null ? "" : html`<b class="figure">${rate(reply.tokens_per_s)} tok/s</b> predicted for one stream${between(reply.tokens_per_s_range)}
    at ${tokens(reply.depth)} tokens (${reply.basis}); prompts ${count(reply.prompt_tokens_per_s)} tok/s`;
  return html`<div class="answer">
    <p class=${reply.fits ? "verdict fits" : "verdict short"} role="status">
      ${reply.fits ? "✓ It fits" : `✗ ${bytes(reply.short_bytes)} are missing`} with ${tokens(reply.n_ctx)} tokens of ${reply.kv_type}${served ? ", as served" : ""}</p>
    <p>${speed}</p>
    <${Layers} devices=${reply.devices} host=${reply.host} />
    ${reply.devices.map((device) => html`<div key=${device.index}>
      <p class="caption">GPU${device.index} ${device.name}, ${bytes(device.total_bytes)}${device.over_bytes ? html` <b class="warning">${bytes(device.over_bytes)} too much</b>` : ""}</p>
      <${Bar} name="GPU${device.index} what-if" total=${device.total_bytes} over=${device.over_bytes > 0} segments=${plannedSegments(device.planned)} /></div>`)}
    <p class="caption">Host${reply.host.experts_bytes ? `, experts ${bytes(reply.host.experts_bytes)}` : ""}</p>
    <${Bar} name="Host what-if" total=${reply.host.total_bytes} over=${reply.host.over_bytes > 0} segments=${plannedSegments(reply.host.planned)} />
    <${Legend} planned=${sum([...reply.devices, reply.host])} />
    <p class="note">Bytes by the ${reply.method} meter, which errs on the high side; vram-llm plan confirms by llama.cpp's dry run.
      Planned in ${count(1000 * reply.seconds)} ms, here after ${count(ms)} ms.</p>
    ${reply.notes.map((note) => html`<p class="note" key=${note}>${note}</p>`)}
  </div>`;
}

const sum = (places) => places.reduce((all, { planned }) => {
  for (const [name, n] of Object.entries(planned)) all[name] = (all[name] ?? 0) + n;
  return all;
}, {});

const plan = (body) => askJson("plan", { method: "POST", body });

export function WhatIf({ devices }) {
  const [options, setOptions] = useState(null);
  const [fault, setFault] = useState("");
  const [asked, setAsked] = useState(null);
  const [cards, setCards] = useState(null);
  const { reply, ms, error } = useLatest(asked && { ...asked, ...(cards && { devices: cards }) }, plan);
  const open = async (event) => {
    if (!event.target.open || options) return;
    try {
      const found = await askJson("plan");
      setFault("");
      setOptions(found);
      setAsked({ ...found.served, devices: undefined });
    } catch (refused) {
      setFault(refused.message);
    }
  };
  const set = (name) => (value) => setAsked({ ...asked, [name]: value });
  const known = options?.cards ?? [];
  const start = () => {
    const own = devices.map((device) => known.find((card) => card.includes(device.name))).filter(Boolean);
    return own.length ? own : ["NVIDIA GeForce RTX 3090"];
  };
  const steps = options && lengths(options.n_ctx_train, options.served.n_ctx);
  const isServed = asked && !cards && Object.entries(options.served).every(([name, value]) => value == null || asked[name] === value);
  return html`<section id="what-if" aria-labelledby="what-if-title"><details onToggle=${open}>
    <summary><h2 id="what-if-title">What if</h2> <span class="dim">other cards, context, KV type</span></summary>
    ${fault && html`<p class="warning">⚠ ${fault}</p>`}
    ${asked && html`<div class="split">
      <form onSubmit=${(event) => event.preventDefault()}>
        <fieldset><legend>Cards</legend>
          <label><input type="radio" name="rig" checked=${!cards} onChange=${() => setCards(null)} /> this machine, as when it was planned</label>
          <label><input type="radio" name="rig" checked=${!!cards} onChange=${() => setCards(start())} /> others</label>
          ${cards && html`<${Cards} cards=${cards} options=${options} setCards=${setCards} />`}
        </fieldset>
        <${Slider} label="Context" text="${tokens(asked.n_ctx)} tokens" min="0" max=${steps.length - 1} value=${steps.indexOf(asked.n_ctx)}
          onInput=${(event) => set("n_ctx")(steps[event.target.value])} />
        <${Choice} label="KV type" value=${asked.kv_type} values=${options.kv_types} onChange=${set("kv_type")} />
        <${Slider} label="Reserve" text=${bytes(asked.reserve_bytes)} min="0" max="8192" step="128" value=${asked.reserve_bytes / MIB}
          onInput=${(event) => set("reserve_bytes")(event.target.value * MIB)} />
        <${Slider} label="Sequences" text=${String(asked.parallel)} min="1" max="32" value=${asked.parallel}
          onInput=${(event) => set("parallel")(Number(event.target.value))} />
        <${Choice} label="Objective" value=${asked.objective} values=${options.objectives} onChange=${set("objective")} />
        <button type="button" class="small" onClick=${() => { setCards(null); setAsked({ ...options.served, devices: undefined }); }}>As served</button>
      </form>
      <div aria-live="off">${error ? html`<p class="warning" role="status">⚠ ${error.message}</p>` : reply ? html`<${Answer} reply=${reply} ms=${ms} served=${isServed} />` : html`<p class="dim">Planning …</p>`}</div>
    </div>`}
  </details></section>`;
}
