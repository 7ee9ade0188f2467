// Progress of a run, read again every two seconds until it is finished.
import { announce, el, get, path, svg } from "./dom.js";

const SECONDS = 2;

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function lossPlot(points) {
  const [width, height, left, bottom] = [640, 220, 60, 24];
  const finite = points.filter((point) => Number.isFinite(point.loss));
  if (finite.length < 2) return el("p", {}, "The loss is plotted from the second step on.");
  const losses = finite.map((point) => point.loss);
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const [first, last] = [finite[0], finite[finite.length - 1]];
  const x = (point) => left + ((point.step - first.step) / (last.step - first.step || 1)) * (width - left - 8);
  const y = (point) => 8 + ((high - point.loss) / (high - low || 1)) * (height - bottom - 16);
  const label = (value, place) => svg("text", { ...place, class: "axis" }, value);
  const line = finite.map((point) => `${x(point).toFixed(1)},${y(point).toFixed(1)}`).join(" ");
  const words = `Loss over steps: ${first.loss.toPrecision(3)} at step ${first.step}, ${last.loss.toPrecision(3)} at step ${last.step}`;
  return el("figure", {},
    svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words },
      svg("polyline", { points: line, class: "line" }),
      label(high.toPrecision(3), { x: 0, y: 14 }), label(low.toPrecision(3), { x: 0, y: height - bottom - 4 }),
      label(`step ${first.step}`, { x: left, y: height - 6 }), label(`${last.step}`, { x: width - 8, y: height - 6, "text-anchor": "end" })),
    el("figcaption", {}, words));
}

function results(rows) {
  if (!rows.length) return el("p", {}, "No epoch has been measured yet.");
  return el("ul", { class: "plain" }, rows.map((row) =>
    el("li", {}, el("b", {}, `${row.benchmark}, epoch ${row.epoch}`), el("dl", { class: "inline" },
      row.headlines.map((item) => [el("dt", {}, item.title), el("dd", {}, item.text)]).flat()))));
}

function content(progress) {
  const planned = progress.steps ? ` of ${progress.steps}` : "";
  const epochs = progress.epochs ? ` of ${progress.epochs}` : "";
  const left = progress.seconds_left === null ? null : `${duration(progress.seconds_left)} of training left, measurements not included`;
  return [
    el("ol", { class: "stages", "aria-label": "Stages" }, progress.stages.map((stage) => el("li", {}, `${stage.done ? "✓" : "…"} ${stage.name}`))),
    progress.step ? el("p", {}, `Step ${progress.step}${planned}, epoch ${progress.epoch}${epochs}.`) : null,
    progress.steps ? el("progress", { max: progress.steps, value: progress.step, "aria-label": "Training steps" }) : null,
    left ? el("p", {}, left) : null,
    el("h2", {}, "Loss"), lossPlot(progress.loss),
    el("h2", {}, "Results after epochs"), results(progress.results),
  ].filter(Boolean);
}

export function progressTab(body, name, run, signal) {
  body.replaceChildren(...content(run.progress));
  if (run.row.status === "finished") return;
  const timer = setInterval(async () => {
    try {
      const next = await get(`/api/runs/${path(name)}`);
      if (signal.aborted) return;
      body.replaceChildren(...content(next.progress));
      if (next.row.status === "finished") {
        clearInterval(timer);
        announce("The run is finished.");
      }
    } catch (error) {
      clearInterval(timer);
      if (!signal.aborted) body.prepend(el("p", { role: "alert" }, `No longer updated: ${error.message}`));
    }
  }, SECONDS * 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
}
