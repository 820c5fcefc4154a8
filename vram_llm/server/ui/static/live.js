// Rates and their history, and the requests in flight.
import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { ask } from "./api.js";
import { DASH, count, percent, rate, seconds } from "./format.js";

const KEPT = 600; // seconds of history

// Figures of the last minutes, in columns as uPlot wants them.
export class History {
  times = [];
  columns = {};

  add(time, load) {
    const row = {
      generation: load.generation_tokens_per_s, prompt: load.prompt_tokens_per_s,
      predicted: load.n_running ? load.predicted_tokens_per_s : null,
      running: load.n_running, waiting: load.n_waiting,
      ttft: load.time_to_first_token_s == null ? null : 1000 * load.time_to_first_token_s,
      itl: load.inter_token_latency_s == null ? null : 1000 * load.inter_token_latency_s,
      kv: load.kv_usage == null ? null : 100 * load.kv_usage,
      hits: load.prefix_hit_rate == null ? null : 100 * load.prefix_hit_rate,
    };
    this.times.push(time);
    for (const [name, value] of Object.entries(row)) (this.columns[name] ??= []).push(value ?? null);
    if (this.times.length > KEPT) {
      this.times.shift();
      for (const column of Object.values(this.columns)) column.shift();
    }
  }

  data(names) {
    return [this.times, ...names.map((name) => this.columns[name] ?? [])];
  }
}

const CHARTS = [
  { id: "generation", title: "Generated tok/s", series: [["generation", "all"], ["predicted", "predicted"]] },
  { id: "requests", title: "Requests", series: [["running", "running"], ["waiting", "waiting"]] },
  { id: "itl", title: "Between tokens, ms", series: [["itl", ""]] },
  { id: "prompt", title: "Prompt tok/s", series: [["prompt", ""]] },
  { id: "cache", title: "KV cache, %", series: [["kv", "in use"], ["hits", "prefix hits"]], range: [0, 100] },
  { id: "ttft", title: "First token, ms", series: [["ttft", ""]] },
];
const HEIGHT = 120;
const minute = (time) => new Date(1000 * time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
const DASHES = [[], [6, 4]]; // a series is known by its dashes as well as by its colour

function Chart({ chart, history, tick, scheme }) {
  const box = useRef(null);
  const plot = useRef(null);
  const names = chart.series.map(([name]) => name);
  useEffect(() => {
    const look = getComputedStyle(document.documentElement);
    const color = (name) => look.getPropertyValue(name).trim();
    const axis = {
      stroke: color("--dim"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false },
      font: "11px system-ui, sans-serif", size: 40,
    };
    plot.current = new uPlot({
      width: box.current.clientWidth || 300, height: HEIGHT, legend: { show: false },
      cursor: { points: { size: 5 }, y: false },
      scales: { y: { range: chart.range ?? ((_, low, high) => [0, Math.max(high ?? 0, 1) * 1.1]) } },
      axes: [{ ...axis, size: 24, space: 60, incrs: [60, 120, 300], values: (_, times) => times.map(minute) }, { ...axis, values: (_, values) => values.map((v) => (v >= 1e4 ? `${v / 1e3}k` : v)) }],
      series: [{}, ...chart.series.map(([, label], i) => ({
        label, stroke: color(`--line${i}`), width: 2, dash: DASHES[i], spanGaps: true, points: { show: false },
      }))],
    }, history.data(names), box.current);
    const watch = new ResizeObserver(([entry]) => plot.current?.setSize({ width: entry.contentRect.width, height: HEIGHT }));
    watch.observe(box.current);
    return () => { watch.disconnect(); plot.current.destroy(); plot.current = null; };
  }, [scheme]);
  useEffect(() => plot.current?.setData(history.data(names)), [tick, scheme]);
  return html`<figure class="chart">
    <figcaption>${chart.title}
      ${chart.series.map(([name, label], i) => label && html`<span key=${name} class="series s${i}">${label}</span>`)}
    </figcaption>
    <div ref=${box} role="img" aria-label="${chart.title} over the last minutes"></div>
  </figure>`;
}

export function useScheme() {
  const query = matchMedia("(prefers-color-scheme: dark)");
  const [isDark, setDark] = useState(query.matches);
  useEffect(() => {
    const change = (event) => setDark(event.matches);
    query.addEventListener("change", change);
    return () => query.removeEventListener("change", change);
  }, []);
  return isDark;
}

export function Live({ status, history, tick }) {
  const scheme = useScheme();
  const { load, totals } = status;
  const tiles = [
    ["Generated", `${rate(load.generation_tokens_per_s)} tok/s`, load.predicted_tokens_per_s == null ? "" : `${rate(load.predicted_tokens_per_s)} predicted for one`],
    ["Prompts", `${rate(load.prompt_tokens_per_s)} tok/s`, `${count(totals?.prompt_tokens)} in all`],
    ["Running", count(load.n_running), `${count(load.n_waiting)} waiting`],
    ["First token", seconds(load.time_to_first_token_s), "from arrival"],
    ["Between tokens", seconds(load.inter_token_latency_s), ""],
    ["KV cache", percent(load.kv_usage), totals?.preemptions ? `${count(totals.preemptions)} preemptions` : "in use"],
    ["Prefix hits", percent(load.prefix_hit_rate), `${count(totals?.cached_tokens)} tokens saved`],
    ...(totals?.drafted_tokens ? [["Drafts", percent(totals.accepted_tokens / totals.drafted_tokens), "taken"]] : []),
  ];
  return html`<section id="live" aria-labelledby="live-title">
    <h2 id="live-title">Live</h2>
    <dl class="tiles">${tiles.map(([what, value, more]) => html`<div key=${what}><dt>${what}</dt><dd>${value}</dd>
      ${more && html`<dd class="dim">${more}</dd>`}</div>`)}</dl>
    <div class="charts">${CHARTS.map((chart) => html`<${Chart} key=${chart.id} chart=${chart} history=${history} tick=${tick} scheme=${scheme} />`)}</div>
  </section>`;
}

function Cancel({ id }) {
  const [state, setState] = useState("");
  const cancel = async () => {
    setState("…");
    try {
      await ask(`requests/${encodeURIComponent(id)}`, { method: "DELETE" });
    } catch (error) {
      setState(error.status === 404 ? "" : error.message);
    }
  };
  return html`<button type="button" class="small" disabled=${state === "…"} onClick=${cancel}
    aria-label="Cancel request ${id}">${state === "…" ? "ending" : "Cancel"}</button> ${state !== "…" && state}`;
}

export function Requests({ requests }) {
  return html`<section id="requests" aria-labelledby="requests-title">
    <h2 id="requests-title">Requests in flight</h2>
    ${requests.length ? html`<div class="scroll" tabindex="0" role="region" aria-labelledby="requests-title"><table>
      <thead><tr><th scope="col">Request</th><th scope="col">State</th><th scope="col" class="num">Prompt</th>
        <th scope="col" class="num">Cached</th><th scope="col" class="num">Generated</th><th scope="col" class="num">Age</th>
        <th scope="col"><span class="hidden">Cancel</span></th></tr></thead>
      <tbody>${requests.map((request) => html`<tr key=${request.id}>
        <th scope="row"><code title=${request.id}>${shortId(request.id)}</code></th><td>${request.state}</td>
        <td class="num">${count(request.prompt_tokens)}</td><td class="num">${count(request.cached_tokens)}</td>
        <td class="num">${count(request.generated_tokens)}</td><td class="num">${seconds(request.age_s)}</td>
        <td><${Cancel} id=${request.id} /></td></tr>`)}</tbody></table></div>`
      : html`<p class="dim">None.</p>`}
  </section>`;
}

const shortId = (id) => (id.length > 18 ? `${id.slice(0, 15)}${DASH}${id.slice(-4)}` : id);
