// Runs side by side: verdicts, headlines with intervals, and what differs in their settings.
import { el, get, path } from "./dom.js";

const ROLES = { unlearned: "", target: "target", retain: "retain model" };
const BETTER = { higher: "higher is better", lower: "lower is better", retain: "closer to the retain model is better" };

function table(label, header, rows) {
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": label },
    el("table", { class: "stack" },
      el("thead", {}, el("tr", {}, header.map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, rows.map(([title, ...cells]) =>
        el("tr", {}, el("th", { scope: "row" }, title), cells.map((cell, index) => el("td", { "data-label": header[index + 1] }, cell)))))));
}

function values(byRole) {
  return Object.entries(ROLES).map(([role, name]) => {
    const { point, interval, note } = byRole[role];
    if (name) return el("span", { class: "note" }, `${name} ${point} ${interval}`);
    return [el("b", {}, point), el("span", { class: "note" }, interval), note ? el("span", { class: "note" }, note) : null];
  }).flat();
}

export async function comparePage(names) {
  const query = names.map((name) => `run=${encodeURIComponent(name)}`).join("&");
  const data = await get(`/api/compare?${query}`);
  const titles = data.runs.map((run) => run.name);
  const alert = data.incomparable.length
    ? el("p", { class: "alert", role: "note" }, `These runs differ in ${data.incomparable.join(", ")}: their values may not compare.`)
    : null;
  const headlines = data.headlines.map((row) => [
    [row.title, el("span", { class: "note" }, [row.benchmark, BETTER[row.better]].filter(Boolean).join(", "))],
    ...row.values.map(values),
  ]);
  const settings = data.differences.map((row) => [el("code", {}, row.key), ...row.values]);
  return [
    el("h1", {}, "Comparison"),
    alert,
    el("h2", {}, "Verdicts"),
    el("dl", {}, data.runs.map((run) => [el("dt", {}, el("a", { href: `#/run/${path(run.name)}/report` }, run.name)), el("dd", {}, run.verdict)]).flat()),
    el("h2", {}, "Headlines of the unlearned models"),
    table("Headlines", ["Metric", ...titles], headlines),
    el("h2", {}, "Settings that differ"),
    settings.length ? table("Settings that differ", ["Setting", ...titles], settings) : el("p", {}, "None."),
  ].filter(Boolean);
}
