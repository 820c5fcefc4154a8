// The models of a server that has several: state, memory by device, requests, and orders to load and unload.
import { html, useState } from "./vendor/htm-preact.js";
import { ask } from "./api.js";
import { bytes, count, seconds } from "./format.js";

const LOADED = ["resident", "loading"];

function Order({ model }) {
  const [problem, setProblem] = useState("");
  const order = LOADED.includes(model.state) ? "unload" : "load";
  const send = async () => {
    setProblem("");
    try {
      await ask(`models/${order}`, { method: "POST", body: { model: model.id } });
    } catch (error) {
      setProblem(error.message);
    }
  };
  return html`<button type="button" class="small" disabled=${model.state === "unloading"} onClick=${send}
    aria-label="${order} ${model.id}">${order === "load" ? "Load" : "Unload"}</button> ${problem}`;
}

const places = (model) => Object.entries(model.device_bytes).filter(([, n]) => n)
  .map(([device, n]) => `${device} ${bytes(n)}`).join(", ");

export function Models({ models }) {
  return html`<section id="models" aria-labelledby="models-title">
    <h2 id="models-title">Models</h2>
    <div class="scroll" tabindex="0" role="region" aria-labelledby="models-title"><table>
      <thead><tr><th scope="col">Model</th><th scope="col">State</th><th scope="col">Memory</th><th scope="col" class="num">Requests</th>
        <th scope="col" class="num">Waiting</th><th scope="col" class="num">Loads</th><th scope="col" class="num">Load time</th>
        <th scope="col"><span class="hidden">Order</span></th></tr></thead>
      <tbody>${models.map((model) => html`<tr key=${model.id} data-model=${model.id}>
        <th scope="row" title=${model.why}>${model.id}</th><td title=${model.detail ?? ""}>${model.state}</td><td>${places(model)}</td>
        <td class="num">${count(model.in_flight)}</td><td class="num">${count(model.waiting)}</td>
        <td class="num">${count(model.n_loads)}</td><td class="num">${seconds(model.load_s)}</td>
        <td><${Order} model=${model} /></td></tr>`)}</tbody></table></div>
  </section>`;
}

// The model for the chat, where there is a choice.
export function ModelChoice({ models, chosen, onChoice }) {
  return html`<label class="field"><span>Model</span><select value=${chosen} onChange=${(event) => onChoice(event.target.value)}>
    ${models.map((model) => html`<option key=${model.id} value=${model.id}>${model.id}</option>`)}</select></label>`;
}
