// The list of runs: filter, sort, select for a comparison.
import { badge, el, get, path, visible } from "./dom.js";

const NUM_HEADLINES = 4;
const STATUS = { running: "running", unfinished: "not finished" };

export function verdictBadges(row) {
  if (row.problem) return [badge("no", "✗ cannot be read")];
  if (row.status !== "finished") return [badge("open", `… ${STATUS[row.status]}`)];
  const badges = [conclusion(row.forgot, "forgotten", "not forgotten", "forgetting open"), conclusion(row.kept, "utility kept", "utility lost", "utility open")];
  if (row.audits) badges.push(badge({ leaks: "no", indistinguishable: "yes" }[row.audits] || "open", `audits: ${row.audits}`));
  return badges;
}

function conclusion(value, yes, no, open) {
  if (value === null) return badge("open", `? ${open}`);
  return value ? badge("yes", `✓ ${yes}`) : badge("no", `✗ ${no}`);
}

// A path without its folders; the name of a model on the hub is short already.
function modelName(run) {
  return /^[./~]/.test(run.model) ? run.model.split("/").pop() : run.model;
}

// The headlines that most runs have, as columns.
function commonHeadlines(runs) {
  const counts = new Map();
  for (const run of runs) for (const { title } of run.headlines) counts.set(title, (counts.get(title) || 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]).slice(0, NUM_HEADLINES).map(([title]) => title);
}

function columnsOf(runs) {
  const verdict = (run) => (run.status === "finished" ? Number(run.forgot) + Number(run.kept) : -1);
  return [
    { title: "Run", text: (run) => run.name, cell: (run) => el("a", { href: `#/run/${path(run.name)}/report` }, run.name) },
    { title: "Verdict", sort: verdict, cell: (run) => el("span", { title: visible(run.problem || run.verdict) }, verdictBadges(run)) },
    { title: "Method", text: (run) => run.method },
    { title: "Model", text: modelName },
    ...commonHeadlines(runs).map((title) => {
      const headline = (run) => run.headlines.find((item) => item.title === title);
      return { title, sort: (run) => headline(run)?.point ?? null, cell: (run) => headline(run)?.text ?? "" };
    }),
    { title: "Date", text: (run) => run.created, cell: (run) => run.created.slice(0, 16).replace("T", " ") },
  ];
}

export async function listPage() {
  const { folder, runs } = await get("/api/runs");
  document.getElementById("folder").textContent = visible(folder);
  const columns = columnsOf(runs);
  const selected = new Set();
  const count = el("span", { role: "status" });
  const compare = el("button", { type: "button", disabled: true, click: () => {
    location.hash = `#/compare/${path(...selected)}`;
  } }, "Compare selected runs");
  const filter = el("input", { type: "search", id: "filter", autocomplete: "off", input: () => update() });
  const body = el("tbody");
  const headers = columns.map((column) => el("th", { scope: "col" }, el("button", { type: "button", click: () => sortBy(column) }, column.title)));
  let order = runs.map((run) => ({ run, row: null, text: textOf(run) }));
  let sorted = null, ascending = true;

  function textOf(run) {
    return [run.name, run.recipe, run.method, run.model, run.data, run.status, run.verdict, run.audits, run.problem].join(" ").toLowerCase();
  }

  function rowOf(run) {
    const box = el("input", { type: "checkbox", "aria-label": `Select ${run.name}`, change: () => {
      if (box.checked) selected.add(run.name);
      else selected.delete(run.name);
      compare.disabled = selected.size < 2;
    } });
    const cells = columns.map((column, index) => {
      const content = column.cell ? column.cell(run) : column.text(run);
      return el(index ? "td" : "th", { scope: index ? null : "row", "data-label": column.title }, content);
    });
    return el("tr", {}, el("td", { class: "select", "data-label": "Select" }, box), cells);
  }

  function update() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = order.filter((item) => words.every((word) => item.text.includes(word)));
    for (const item of shown) item.row ??= rowOf(item.run);
    body.replaceChildren(...shown.map((item) => item.row));
    count.textContent = `${shown.length} of ${runs.length} runs`;
  }

  function sortBy(column) {
    ascending = sorted === column ? !ascending : true;
    sorted = column;
    headers.forEach((header, index) => {
      if (columns[index] === column) header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      else header.removeAttribute("aria-sort");
    });
    const key = (item) => (column.sort || column.text)(item.run);
    order = [...order].sort((one, other) => {
      const [a, b] = [key(one), key(other)];
      // Runs without a value come last in both directions.
      if (a === null || b === null) return (a === null) - (b === null);
      const difference = typeof a === "number" ? a - b : a.localeCompare(b);
      return ascending ? difference : -difference;
    });
    update();
  }

  update();
  return [
    el("h1", {}, "Runs"),
    el("div", { class: "controls" }, el("label", { for: "filter" }, "Filter"), filter, compare, count),
    el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Table of runs" },
      el("table", { class: "stack" },
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, el("span", { class: "visually-hidden" }, "Select")), headers)),
        body)),
  ];
}
