// The last lines of the server's log.
import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { askJson } from "./api.js";
import { clock } from "./format.js";

const EVERY_MS = 2000;
const KEPT = 500;

export function Logs() {
  const [isOpen, setOpen] = useState(false);
  const [lines, setLines] = useState([]);
  const [fault, setFault] = useState("");
  const box = useRef(null);
  useEffect(() => {
    if (!isOpen) return undefined;
    let last = 0, known = [];
    const look = async () => {
      if (document.hidden) return;
      try {
        const found = await askJson(`logs?after=${last}`);
        if (found.last < last) known = []; // another server, which counts anew
        if (found.lines.length) setLines(known = [...known, ...found.lines].slice(-KEPT));
        last = found.last;
        setFault("");
      } catch (error) {
        setFault(error.status ? error.message : "");
        if (!error.status) last = 0, known = []; // the server is gone, and counts anew when it is back
      }
    };
    look();
    const timer = setInterval(look, EVERY_MS);
    return () => clearInterval(timer);
  }, [isOpen]);
  useEffect(() => {
    const own = box.current;
    if (own && own.scrollHeight - own.scrollTop - own.clientHeight < 80) own.scrollTop = own.scrollHeight;
  }, [lines]);
  return html`<section id="logs" aria-labelledby="logs-title"><details onToggle=${(event) => setOpen(event.target.open)}>
    <summary><h2 id="logs-title">Log</h2> <span class="dim">the last lines</span></summary>
    ${fault && html`<p class="warning">⚠ ${fault}</p>`}
    <div class="log" ref=${box} tabindex="0" role="log" aria-live="off" aria-label="Log lines">
      ${lines.map((line) => html`<div key=${line.n} class=${line.level}><time>${clock(line.time)}</time> <b>${line.level}</b> ${line.text}</div>`)}
      ${!lines.length && html`<p class="dim">Nothing was logged.</p>`}
    </div>
  </details></section>`;
}
