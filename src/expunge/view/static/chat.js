// One prompt to the models of a run, side by side, streamed.
import { answer, announce, el, visible } from "./dom.js";

const ROLES = { target: "Target", unlearned: "Unlearned model", retain: "Retain model" };

// Read lines of JSON as they arrive.
async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

function column(role) {
  const state = el("p", { class: "note", role: "status" }, "waiting");
  const text = el("p", { class: "text" });
  const probability = el("p", { class: "note" });
  return { state, text, probability, node: el("section", { "aria-label": ROLES[role] }, el("h2", {}, ROLES[role]), state, text, probability) };
}

function update(target, event) {
  if (event.text !== undefined) target.text.textContent = visible(event.text);
  if (event.probability_per_token !== undefined) {
    const whole = Math.exp(event.log_probability).toPrecision(2);
    target.probability.textContent =
      `True answer: probability ${event.probability_per_token.toPrecision(3)} per token (geometric mean of ${event.answer_tokens}), ${whole} as a sequence.`;
  }
  if (event.state) target.state.textContent = event.state;
  if (event.error) target.state.textContent = visible(event.error);
  if (event.done) target.state.textContent = event.cut ? "cut at the limit of tokens" : "done";
}

function field(label, input) {
  return el("p", { class: "field" }, el("label", { for: input.id }, label), input);
}

export function chatTab(body, name, signal) {
  const question = el("textarea", { id: "question", rows: 3, required: true });
  const truth = el("textarea", { id: "truth", rows: 2 });
  const tokens = el("input", { id: "tokens", type: "number", min: 1, max: 4096, value: 128, required: true });
  const temperature = el("input", { id: "temperature", type: "number", min: 0, max: 5, step: "any", value: 0, required: true });
  const boxes = Object.entries(ROLES).map(([role, title]) => {
    const input = el("input", { type: "checkbox", id: `role-${role}`, value: role, checked: true });
    return { input, node: el("span", { class: "choice" }, input, el("label", { for: input.id }, title)) };
  });
  const send = el("button", { type: "submit" }, "Ask");
  const stop = el("button", { type: "button", disabled: true, click: () => running?.abort() }, "Stop");
  const problem = el("p", { role: "alert" });
  const columns = el("div", { class: "columns" });
  let running = null;

  async function ask(event) {
    event.preventDefault();
    const roles = boxes.map((box) => box.input).filter((input) => input.checked).map((input) => input.value);
    problem.textContent = roles.length ? "" : "Choose at least one model.";
    if (!roles.length || running) return;
    const byRole = Object.fromEntries(roles.map((role) => [role, column(role)]));
    columns.replaceChildren(...roles.map((role) => byRole[role].node));
    running = new AbortController();
    send.disabled = !(stop.disabled = false);
    try {
      const response = await fetch("/api/chat", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({
          run: name, roles, question: question.value, answer: truth.value,
          max_new_tokens: tokens.valueAsNumber, temperature: temperature.valueAsNumber,
        }),
        signal: running.signal,
      });
      if (!response.ok) await answer(response);
      for await (const item of lines(response.body)) update(byRole[item.role], item);
      announce("All answers are complete.");
    } catch (error) {
      problem.textContent = error.name === "AbortError" ? "Stopped." : visible(error.message);
    }
    running = null;
    send.disabled = !(stop.disabled = true);
  }

  signal.addEventListener("abort", () => running?.abort());
  body.append(
    el("form", { submit: ask },
      field("Prompt", question), field("True answer, for its probability (optional)", truth),
      el("fieldset", {}, el("legend", {}, "Models, loaded when first asked"), boxes.map((box) => box.node)),
      field("Largest number of new tokens", tokens), field("Temperature (0: the most likely token)", temperature),
      el("p", { class: "controls" }, send, stop)),
    problem, columns);
}
