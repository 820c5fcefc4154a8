// The devices and the host: what was planned for each, what it holds, and the layers on it.
import { html } from "./vendor/htm-preact.js";
import { DASH, bytes, percent, rate, signed } from "./format.js";

export const KINDS = [
  ["weights", "weights", "Weights"],
  ["context", "kv", "KV cache"],
  ["compute", "compute", "Compute buffers"],
  ["overhead", "overhead", "Overhead"],
  ["companions", "companions", "Companions"],
  ["reserve", "reserve", "Reserve"],
];

export const plannedBytes = (planned) =>
  KINDS.reduce((sum, [name]) => sum + (name === "reserve" ? 0 : planned[`${name}_bytes`] ?? 0), 0);

// A bar over `total` bytes of segments [style, label, bytes].
export function Bar({ name, total, segments, over }) {
  const shown = segments.filter(([, , n]) => n > 0);
  const sum = shown.reduce((all, [, , n]) => all + n, 0);
  const scale = Math.max(total, sum) || 1;
  const label = shown.map(([, text, n]) => `${text} ${bytes(n)}`).join(", ") || "nothing";
  return html`<div class=${over ? "bar over" : "bar"} role="img" aria-label="${name}: ${label}; of ${bytes(total)}">
    ${shown.map(([style, text, n]) => html`<span key=${style} class="part ${style}" data-kind=${style} data-bytes=${n}
      title="${text}: ${bytes(n)}" style=${{ width: `${(100 * n) / scale}%` }}></span>`)}
  </div>`;
}

export const plannedSegments = (planned) =>
  KINDS.map(([name, style, text]) => [style, text, planned[`${name}_bytes`] ?? 0]);

export function Legend({ planned, extra = [] }) {
  const rows = KINDS.map(([name, style, text]) => [style, text, planned[`${name}_bytes`]]).concat(extra);
  return html`<ul class="legend">
    ${rows.filter(([, , n]) => n).map(([style, text, n]) => html`<li key=${style}>
      <span class="swatch part ${style}" aria-hidden="true"></span>${text} <b>${bytes(n)}</b></li>`)}
  </ul>`;
}

const layerText = ({ layers, experts_bytes: experts }) => [
  layers ? (layers[0] === layers[1] ? `layer ${layers[0]}` : `layers ${layers[0]}–${layers[1]}`) : "no layers",
  experts ? `experts ${bytes(experts)}` : "",
].filter(Boolean).join(", ");

function Actual({ name, total, own, other, plan }) {
  if (own == null) return html`<p class="dim">Held: the driver does not say.</p>`;
  const off = plan ? ` (${signed(own - plan, bytes)} against the plan)` : "";
  return html`<${Bar} name="${name} held" total=${total}
      segments=${[["own", "This server", own], ["other", "Other programs", other ?? 0]]} />
    <p class="held">Held <b>${bytes(own)}</b>${off}${other ? html`, other programs <b>${bytes(other)}</b>` : ""}</p>`;
}

function facts(device) {
  const pcie = device.pcie;
  return [
    ["busy", percent(device.utilization), device.utilization],
    ["temp.", device.temperature_c == null ? DASH : `${device.temperature_c} °C`, device.temperature_c],
    ["power", device.power_limit_w == null ? `${rate(device.power_w)} W`
      : `${Math.round(device.power_w)} of ${Math.round(device.power_limit_w)} W`, device.power_w],
    ["clock", `${device.clock_mhz} MHz`, device.clock_mhz],
    ["PCIe", pcie && `${pcie.generation} ×${pcie.width}`, pcie?.generation],
  ].filter(([, , known]) => known != null);
}

function warnings(device) {
  const pcie = device.pcie;
  const found = (device.throttle_reasons ?? []).filter((reason) => !/idle/i.test(reason))
    .map((reason) => `slowed down: ${reason}`);
  if (pcie?.width && pcie.max_width && pcie.width < pcie.max_width) found.push(`PCIe ×${pcie.width} of ×${pcie.max_width}`);
  if (device.ecc_errors) found.push(`${device.ecc_errors} ECC errors`);
  return found;
}

function Device({ device }) {
  const name = `GPU${device.index}`;
  const plan = plannedBytes(device.planned);
  return html`<article class="device" data-device=${device.index}>
    <h3><span class="tag d${device.index % 6}">${name}</span> ${device.name}</h3>
    <p class="sub">${bytes(device.total_bytes)}, ${bytes(device.free_bytes)} free · ${layerText(device)}</p>
    <p class="caption">Planned ${bytes(plan)}</p>
    <${Bar} name="${name} planned" total=${device.total_bytes} segments=${plannedSegments(device.planned)} />
    <${Legend} planned=${device.planned} />
    <${Actual} name=${name} total=${device.total_bytes} own=${device.own_bytes} other=${device.other_bytes} plan=${plan} />
    <dl class="facts">${facts(device).map(([what, text]) => html`<div key=${what}><dt>${what}</dt><dd>${text}</dd></div>`)}</dl>
    ${warnings(device).map((text) => html`<p class="warning" key=${text}>⚠ ${text}</p>`)}
  </article>`;
}

function Host({ host }) {
  const plan = plannedBytes(host.planned);
  const used = host.total_bytes - host.available_bytes;
  const other = host.own_bytes == null ? null : Math.max(used - host.own_bytes, 0);
  return html`<article class="device" data-device="host">
    <h3><span class="tag host">host</span> Main memory</h3>
    <p class="sub">${bytes(host.total_bytes)}, ${bytes(host.available_bytes)} available
      ${host.planned.experts_bytes || host.experts_bytes ? ` · experts ${bytes(host.experts_bytes ?? host.planned.experts_bytes)}` : ""}</p>
    <p class="caption">Planned ${bytes(plan)}</p>
    <${Bar} name="Host planned" total=${host.total_bytes} segments=${plannedSegments(host.planned)} />
    <${Legend} planned=${host.planned} />
    <${Actual} name="Host" total=${host.total_bytes} own=${host.own_bytes} other=${other} plan=${plan} />
    ${host.swap_used_bytes > 0 && html`<p class="warning">⚠ ${bytes(host.swap_used_bytes)} in swap</p>`}
  </article>`;
}

// One strip of all layers; each run has the device's colour, pattern and name.
export function Layers({ devices, nLayers, hostLayers }) {
  const runs = devices.filter((device) => device.layers)
    .map((device) => ({ name: `GPU${device.index}`, style: `d${device.index % 6}`, first: device.layers[0], last: device.layers[1] }))
    .sort((a, b) => a.first - b.first);
  const first = runs.length ? runs[0].first : nLayers ?? hostLayers ?? 0;
  if (first > 0) runs.unshift({ name: "host", style: "host", first: 0, last: first - 1 });
  if (!runs.length) return null;
  const total = runs.reduce((all, run) => all + run.last - run.first + 1, 0);
  const span = (run) => (run.first === run.last ? `${run.first}` : `${run.first}–${run.last}`);
  return html`<div class="layers" role="img"
      aria-label="Layers: ${runs.map((run) => `${run.name} ${span(run)}`).join(", ")}">
    ${runs.map((run) => html`<span key=${run.name} class="run ${run.style}"
      style=${{ width: `${(100 * (run.last - run.first + 1)) / total}%` }}><b>${run.name}</b> ${span(run)}</span>`)}
  </div>`;
}

export function Rig({ status }) {
  const { devices, host, model } = status;
  return html`<section id="rig" aria-labelledby="rig-title">
    <h2 id="rig-title">Rig</h2>
    <${Layers} devices=${devices} nLayers=${model?.n_layers} />
    <div class="devices">
      ${devices.map((device) => html`<${Device} key=${device.index} device=${device} />`)}
      ${host && html`<${Host} host=${host} />`}
    </div>
  </section>`;
}
