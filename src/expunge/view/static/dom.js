// Build the page from text: every string of a run or a model becomes a text node, never markup.

const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

// Show control characters, such as those of ANSI codes and of text direction, as visible symbols.
export function visible(text) {
  return String(text).replace(CONTROLS, (character) => {
    const code = character.codePointAt(0);
    if (code < 0x20) return String.fromCodePoint(0x2400 + code);
    return code === 0x7f ? "\u2421" : `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
  });
}

// Create an element; children are elements, or strings that become text.
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(key, value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === "") continue;
    node.append(typeof child === "object" ? child : document.createTextNode(visible(child)));
  }
  return node;
}

// Split a text at the words of a search, which are marked.
export function marked(text, words) {
  const shown = visible(text);
  if (!words.length) return [shown];
  const escaped = words.map((word) => visible(word).replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return shown
    .split(new RegExp(`(${escaped.join("|")})`, "gi"))
    .map((piece, index) => (index % 2 ? el("mark", {}, piece) : piece));
}

export async function get(path) {
  return answer(await fetch(path));
}

export async function answer(response) {
  if (response.ok) return response.json();
  const text = await response.text();
  let reason = text;
  try {
    reason = JSON.parse(text).error;
  } catch {
    // Refusals are plain text.
  }
  throw new Error(reason || `the server answered ${response.status}`);
}

// Tell screen readers about a change elsewhere on the page.
export function announce(text) {
  document.getElementById("status").textContent = visible(text);
}

export function badge(kind, text) {
  return el("span", { class: `badge ${kind}` }, text);
}

export function path(...parts) {
  return parts.map(encodeURIComponent).join("/");
}
