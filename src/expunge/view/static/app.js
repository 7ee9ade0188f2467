// Pages of the viewer; the part of the address after # selects one.
import { announce, el, get, path } from "./dom.js";
import { chatTab } from "./chat.js";
import { comparePage } from "./compare.js";
import { listPage, verdictBadges } from "./list.js";
import { progressTab } from "./progress.js";
import { samplesTab } from "./samples.js";

const main = document.getElementById("main");
const TABS = { report: "Report", progress: "Progress", samples: "Samples", chat: "Chat" };
let leave = new AbortController();
let visited = false;

async function runPage(name, tab, signal) {
  const run = await get(`/api/runs/${path(name)}`);
  const tabs = Object.entries(TABS).map(([key, title]) =>
    el("a", { href: `#/run/${path(name)}/${key}`, "aria-current": key === tab ? "page" : null }, title),
  );
  const body = el("section", { "aria-label": TABS[tab] });
  const builders = {
    report: () => body.append(reportFrame(name)),
    progress: () => progressTab(body, name, run, signal),
    samples: () => samplesTab(body, name, run, signal),
    chat: () => chatTab(body, name, signal),
  };
  builders[tab]();
  const facts = [run.row.method, run.row.model, run.row.data, run.row.created].filter(Boolean).join(" · ");
  return [
    el("h1", {}, name),
    el("p", { class: "sub" }, facts),
    el("div", { class: "badges" }, verdictBadges(run.row)),
    el("p", {}, run.row.problem || run.row.verdict || "No verdict yet: the run is not finished."),
    el("nav", { class: "tabs", "aria-label": "Views of this run" }, tabs),
    body,
  ];
}

function reportFrame(name) {
  // The report has no access to this page, and opens no other.
  return el("iframe", { src: `/report/${path(name)}`, sandbox: "allow-scripts", title: `Report of ${name}` });
}

async function show() {
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const [kind = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  main.setAttribute("aria-busy", "true");
  let content, title;
  try {
    if (kind === "run") {
      title = rest[0];
      content = await runPage(rest[0], rest[1] in TABS ? rest[1] : "report", signal);
    } else if (kind === "compare") {
      title = "Comparison";
      content = await comparePage(rest);
    } else {
      title = "Runs";
      content = await listPage();
    }
  } catch (error) {
    title = "Error";
    content = [el("h1", {}, "This cannot be shown"), el("p", { role: "alert" }, error.message)];
  }
  if (signal.aborted) return;
  document.title = `${title} · expunge view`;
  main.replaceChildren(...content);
  main.removeAttribute("aria-busy");
  announce(document.title);
  // After a link, the next Tab is in the new page; when the viewer opens, it is at the top.
  if (visited) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  visited = true;
}

// The token is in the cookie now; it does not stay in the address and the history.
if (location.search) history.replaceState(null, "", location.pathname + location.hash);
document.getElementById("skip").addEventListener("click", () => main.focus());
addEventListener("hashchange", show);
show();
