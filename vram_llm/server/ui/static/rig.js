// The devices and the host: what was planned for each, what it holds, and the layers on it.
import { html } from "./vendor/htm-preact.js";
import { DASH, bytes, inUnit, percent, rate, signed, unit } from "./format.js";

// Name of the bytes in a status, style, title.
export const KINDS = [
  ["weights", "weights", "Weights"],
  ["context", "kv", "KV cache"],
  ["compute", "compute", "Compute"],
  ["overhead", "overhead", "Overhead"],
  ["companions", "companions", "Companions"],
  ["reserve", "reserve", "Reserve"],
];
const TAGS = 6; // styles of devices

export const plannedBytes = (planned) =>
  KINDS.reduce((sum, [name]) => sum + (name === "reserve" ? 0 : planned[`${name}_bytes`] ?? 0), 0);

// A bar over `total` bytes of segments [style, title, bytes].
export function Bar({ name, total, segments, over }) {
  const shown = segments.filter(([, , n]) => n > 0);
  const scale = Math.max(total, shown.reduce((all, [, , n]) => all + n, 0)) || 1;
  const label = shown.map(([, title, n]) => `${title} ${bytes(n)}`).join(", ") || "nothing";
  return html`<div class=${over ? "bar over" : "bar"} role="img" aria-label="${name}: ${label}; of ${bytes(total)}">
    ${shown.map(([style, title, n]) => html`<span key=${style} class="part ${style}" data-kind=${style} data-bytes=${n}
      title="${title}: ${bytes(n)}" style=${{ width: `${(100 * n) / scale}%` }}></span>`)}
  </div>`;
}

export const plannedSegments = (planned) => KINDS.map(([name, style, title]) => [style, title, planned[`${name}_bytes`] ?? 0]);

export function Legend({ planned }) {
  return html`<ul class="legend">${plannedSegments(planned).filter(([, , n]) => n).map(([style, title, n]) => html`<li key=${style}>
    <span class="swatch part ${style}" aria-hidden="true"></span>${title} <b>${bytes(n)}</b></li>`)}</ul>`;
}

// What a place holds, by kind: llama.cpp's report of its buffers, and the driver's figure of the process.
// What the process has more than its buffers counts as overhead. Null where nobody says.
export function heldBytes({ measured, own_bytes: own }, other) {
  if (!measured && own == null) return null;
  const buffers = measured ?? { weights_bytes: 0, context_bytes: 0, compute_bytes: 0 };
  const known = buffers.weights_bytes + buffers.context_bytes + buffers.compute_bytes;
  return { ...buffers, overhead_bytes: own == null ? null : Math.max(own - known, 0), other_bytes: other, sum: Math.max(own ?? 0, known) };
}

const heldSegments = (held, hasKinds) => [
  ...KINDS.slice(0, 4).map(([name, style, title]) => [hasKinds || name !== "overhead" ? style : "own",
    hasKinds || name !== "overhead" ? title : "This server", held[`${name}_bytes`] ?? 0]),
  ["other", "Other programs", held.other_bytes ?? 0],
];

function Table({ planned, held }) {
  const rows = KINDS.map(([name, style, title]) => [style, title, planned[`${name}_bytes`], held?.[`${name}_bytes`]]);
  if (held?.other_bytes != null) rows.push(["other", "Others", null, held.other_bytes]);
  const shown = rows.filter(([, , plan, has]) => plan || has);
  const name = unit(shown.flatMap(([, , plan, has]) => [plan, has]));
  return html`<table class="kinds"><thead><tr><th scope="col">${name}</th><th scope="col" class="num">planned</th><th scope="col" class="num">held</th></tr></thead>
    <tbody>${shown.map(([style, title, plan, has]) => html`<tr key=${style}>
      <th scope="row"><span class="swatch part ${style}" aria-hidden="true"></span> ${title}</th>
      <td class="num">${inUnit(plan, name)}</td><td class="num">${inUnit(has, name)}</td></tr>`)}</tbody></table>`;
}

function Memory({ name, place, other }) {
  const plan = plannedBytes(place.planned);
  const held = heldBytes(place, other);
  return html`<p class="caption">Planned <b>${bytes(plan)}</b></p>
    <${Bar} name="${name} planned" total=${place.total_bytes} segments=${plannedSegments(place.planned)} />
    ${held ? html`<p class="caption">Held <b>${bytes(held.sum)}</b> <span title="against the plan">(${signed(held.sum - plan, bytes)})</span></p>
        <${Bar} name="${name} held" total=${place.total_bytes} segments=${heldSegments(held, !!place.measured)} />`
      : html`<p class="caption">Held: neither llama.cpp nor the driver says</p>`}
    <${Table} planned=${place.planned} held=${held} />`;
}

const span = ([first, last]) => (first === last ? `${first}` : `${first}–${last}`);

// "3–9, 12" of a list of layers.
export function ranges(layers) {
  const runs = [];
  for (const layer of layers) {
    if (runs.length && runs.at(-1)[1] === layer - 1) runs.at(-1)[1] = layer;
    else runs.push([layer, layer]);
  }
  return runs.map(span).join(", ");
}

const movedText = (moved) => (moved ?? []).map(({ part, layers }) => `${part ?? "weights"} of ${ranges(layers)}`);
const layersText = ({ layers, moved }) => [layers ? `layers ${span(layers)}` : "no layers", ...movedText(moved)].join(", ");

function facts(device) {
  const { pcie } = device;
  return [
    ["busy", percent(device.utilization), device.utilization],
    ["temp.", `${device.temperature_c} °C`, device.temperature_c],
    ["power", device.power_limit_w == null ? `${rate(device.power_w)} W`
      : `${Math.round(device.power_w)} of ${Math.round(device.power_limit_w)} W`, device.power_w],
    ["clock", `${device.clock_mhz} MHz`, device.clock_mhz],
    ["PCIe", pcie && `${pcie.generation ?? DASH} ×${pcie.width}`, pcie?.width],
  ].filter(([, , known]) => known != null);
}

function warnings(device) {
  const { pcie } = device;
  const found = (device.throttle_reasons ?? []).filter((reason) => !/idle/i.test(reason))
    .map((reason) => `slowed down: ${reason.replaceAll("_", " ")}`);
  if (pcie?.width && pcie.max_width && pcie.width < pcie.max_width) found.push(`PCIe ×${pcie.width} of ×${pcie.max_width}`);
  if (device.ecc_errors) found.push(`${device.ecc_errors} ECC errors`);
  return found;
}

function Device({ device }) {
  const name = device.id ?? `GPU${device.index}`;
  return html`<article class="device" data-device=${device.index}>
    <h3><span class="tag d${device.index % TAGS}">${name}</span> ${device.name}</h3>
    <p class="sub">${bytes(device.total_bytes)}${device.free_bytes == null ? "" : `, ${bytes(device.free_bytes)} free`} · ${layersText(device)}</p>
    <${Memory} name=${name} place=${device} other=${device.other_bytes} />
    <dl class="facts">${facts(device).map(([what, text]) => html`<div key=${what}><dt>${what}</dt><dd>${text}</dd></div>`)}</dl>
    ${warnings(device).map((text) => html`<p class="warning" key=${text}>⚠ ${text}</p>`)}
  </article>`;
}

export const othersOnHost = ({ total_bytes: total, available_bytes: available, own_bytes: own }) =>
  (own == null ? null : Math.max(total - available - own, 0));

function Host({ host }) {
  return html`<article class="device" data-device="host">
    <h3><span class="tag host">host</span> Main memory</h3>
    <p class="sub">${bytes(host.total_bytes)}, ${bytes(host.available_bytes)} available · ${layersText(host)}</p>
    <${Memory} name="Host" place=${host} other=${othersOnHost(host)} />
    ${host.swap_used_bytes > 0 && html`<p class="warning">⚠ ${bytes(host.swap_used_bytes)} in swap</p>`}
  </article>`;
}

// One strip of all layers, each run with its device's colour, pattern and name; below it, parts that lie elsewhere.
export function Layers({ devices, host }) {
  const places = devices.map((device) => ({ ...device, name: device.id ?? `GPU${device.index}`, style: `d${device.index % TAGS}` }))
    .concat({ ...host, name: "host", style: "host" });
  const runs = places.filter((place) => place.layers).sort((a, b) => a.layers[0] - b.layers[0]);
  if (!runs.length) return null;
  const total = Math.max(...runs.map((run) => run.layers[1])) + 1;
  const share = (n) => `${(100 * n) / total}%`;
  const parts = places.flatMap((place) => (place.moved ?? []).map((each) => ({ ...each, place })));
  const label = [...runs.map((run) => `${run.name} ${span(run.layers)}`), ...parts.map(({ place, part, layers }) => `${part ?? "weights"} of ${ranges(layers)} on ${place.name}`)];
  return html`<div role="img" aria-label="Layers: ${label.join(", ")}">
    <div class="layers">${runs.map((run) => html`<span key=${run.name} class="run ${run.style}"
      style=${{ width: share(run.layers[1] - run.layers[0] + 1) }}><b>${run.name}</b> ${span(run.layers)}</span>`)}</div>
    ${parts.map(({ place, part, layers }, i) => html`<div class="moved" key=${i}>
      ${layers.map((layer) => html`<span key=${layer} class="run ${place.style}" style=${{ left: share(layer), width: share(1) }}></span>`)}
      <span class="what">${part ?? "weights"} on ${place.name}</span></div>`)}
  </div>`;
}

export function Rig({ status }) {
  const { devices, host } = status;
  return html`<section id="rig" aria-labelledby="rig-title">
    <h2 id="rig-title">Rig</h2>
    <${Layers} devices=${devices} host=${host} />
    <div class="devices">
      ${devices.map((device) => html`<${Device} key=${device.index} device=${device} />`)}
      <${Host} host=${host} />
    </div>
  </section>`;
}
