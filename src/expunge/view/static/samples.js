// Samples and transcripts of a run: choose a file, search, page.
import { el, get, marked, path } from "./dom.js";

const SIZE = 20;
const TEXTS = ["question", "prompt", "answer", "true_answer", "generation", "response", "text"];
const WAIT_MS = 200;

function article(row, words) {
  const { row: number, ...columns } = row;
  const names = Object.keys(columns);
  const long = (name) => TEXTS.includes(name) || Array.isArray(columns[name]) || columns[name].length > 40;
  const text = (value) => (Array.isArray(value) ? value.map((item) => el("p", {}, marked(item, words))) : marked(value, words));
  return el("article", { "aria-label": `Row ${number}` },
    el("p", { class: "note" }, `Row ${number}`),
    el("dl", {}, names.filter(long).map((name) => [el("dt", {}, name), el("dd", { class: "text" }, text(columns[name]))]).flat()),
    el("p", { class: "note" }, names.filter((name) => !long(name)).map((name) => `${name} ${columns[name]}`).join(" · ")));
}

export function samplesTab(body, name, run, signal) {
  const files = Object.entries(run.samples);
  if (!files.length) {
    body.append(el("p", {}, "This run has no samples: its folder has no Parquet files in samples/."));
    return;
  }
  let start = 0, timer, latest = 0;
  const file = el("select", { id: "file", change: () => { start = 0; load(); } }, files.map(([stem, rows]) => el("option", { value: stem }, `${stem} (${rows} rows)`)));
  const query = el("input", { type: "search", id: "query", autocomplete: "off", input: () => {
    clearTimeout(timer);
    start = 0;
    timer = setTimeout(load, WAIT_MS);
  } });
  const count = el("span", { role: "status" });
  const list = el("div", {});
  const previous = el("button", { type: "button", click: () => { start = Math.max(0, start - SIZE); load(); } }, "Previous");
  const next = el("button", { type: "button", click: () => { start += SIZE; load(); } }, "Next");

  async function load() {
    const turn = ++latest;
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    const address = `/api/runs/${path(name)}/samples/${path(file.value)}?start=${start}&size=${SIZE}&q=${encodeURIComponent(query.value)}`;
    try {
      const page = await get(address);
      // A slower answer to an earlier search does not replace a later one.
      if (signal.aborted || turn !== latest) return;
      list.replaceChildren(...page.rows.map((row) => article(row, words)));
      const last = Math.min(start + SIZE, page.matches);
      count.textContent = page.matches ? `${start + 1}–${last} of ${page.matches} matches in ${page.total} rows` : `no match in ${page.total} rows`;
      previous.disabled = start === 0;
      next.disabled = last >= page.matches;
    } catch (error) {
      if (turn === latest) list.replaceChildren(el("p", { role: "alert" }, error.message));
    }
  }

  body.append(
    el("div", { class: "controls" }, el("label", { for: "file" }, "File"), file, el("label", { for: "query" }, "Search"), query),
    el("div", { class: "controls" }, previous, next, count),
    list,
  );
  load();
}
