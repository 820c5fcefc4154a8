// Figures as text. Unknown figures, which are null, become a dash.
export const DASH = "–";
const GIB = 2 ** 30;

export function bytes(n) {
  if (n == null) return DASH;
  const size = Math.abs(n);
  if (size >= GIB) return `${(n / GIB).toFixed(size >= 100 * GIB ? 0 : size >= 10 * GIB ? 1 : 2)} GiB`;
  if (size >= 2 ** 20) return `${Math.round(n / 2 ** 20)} MiB`;
  return size ? `${Math.round(n / 1024)} KiB` : "0";
}

// The unit in which a column of figures is read, and its figures.
export function unit(figures) {
  return Math.max(...figures.map((n) => n ?? 0)) >= GIB ? "GiB" : "MiB";
}
export const inUnit = (n, name) => (n == null ? "" : name === "GiB" ? (n / GIB).toFixed(2) : (n / 2 ** 20).toFixed(1));

export const count = (n) => (n == null ? DASH : Math.round(n).toLocaleString("en"));
export const rate = (n) => (n == null ? DASH : n >= 100 ? count(n) : n.toFixed(1));
export const percent = (share) => (share == null ? DASH : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);

export function seconds(s) {
  if (s == null) return DASH;
  if (s < 1) return `${Math.round(1000 * s)} ms`;
  if (s < 100) return `${s.toFixed(1)} s`;
  if (s < 6000) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
}

export function tokens(n) {
  if (n == null) return DASH;
  if (n < 1024) return String(n);
  return n % 1024 ? count(n) : `${n / 1024}k`;
}

export const clock = (time) => new Date(1000 * time).toLocaleTimeString();
export const signed = (n, text) => (n > 0 ? `+${text(n)}` : n < 0 ? `−${text(-n)}` : "±0");
