/** The keys of the page, as in picture editors. */

import { checked, element } from "./dom.js";

const pick = (name, value) => document.querySelector(`input[name=${name}][value=${value}]`).click();
const press = (id) => { if (!element(id).disabled) element(id).click(); };
const slide = (id, step) => set(id, Number(element(id).value) + step);

function set(id, value) {
  element(id).value = value;
  element(id).dispatchEvent(new Event("input"));
}

/** Each line of the help: the keys, what they do, and which action of the page they run. */
export const keys = [
  ["B", "brush", () => pick("shape", "brush")],
  ["M", "box", () => pick("shape", "box")],
  ["L", "ellipse", () => pick("shape", "ellipse")],
  ["A", "add", () => pick("effect", "add")],
  ["E", "remove (eraser)", () => pick("effect", "remove")],
  ["X", "swap add and remove", () => pick("effect", checked("effect") === "add" ? "remove" : "add")],
  ["[", "smaller", () => slide("size", -2)],
  ["]", "larger", () => slide("size", 2)],
  ["{", "harder", () => slide("softness", -10)],
  ["}", "softer", () => slide("softness", 10)],
  ["1 … 9, 0", "strength of 10 … 90, 100 %", null],
  ["F", "fill", () => press("fill")],
  ["Delete", "clear", () => press("clear")],
  ["I", "invert", () => press("invert")],
  ["R", "back to the network's own map", () => press("own")],
  ["G", "grid of the map", () => press("grid")],
  ["Ctrl+Z", "undo", () => press("undo")],
  ["Ctrl+Shift+Z", "redo", () => press("redo")],
  ["Ctrl+Y", "redo", () => press("redo")],
  ["Ctrl+S", "save", () => press("save")],
  ["PageDown", "next image", (page) => page.step(1)],
  ["PageUp", "image before", (page) => page.step(-1)],
  ["Arrows", "on the image: move the brush", null],
  ["Space", "on the image: paint, or set a corner of a box or an ellipse", null],
  ["Escape", "on the image: cancel the stroke", null],
  ["?", "this list", () => press("help")],
];

/** Runs the action of a key on the page, unless one is writing a text. */
export function onKey(event, page) {
  if (event.target.matches("input:not([type=range], [type=radio], [type=checkbox]), select")) return;
  if (event.altKey || document.querySelector("dialog[open]")) return;
  const command = event.ctrlKey || event.metaKey;
  const name = (command ? "Ctrl+" : "") + (command && event.shiftKey ? "Shift+" : "");
  const pressed = (name + event.key).toLowerCase();
  const [, , action] = keys.find(([key]) => key.toLowerCase() === pressed) ?? [];
  if (action) action(page);
  else if (!command && /^[0-9]$/.test(event.key)) set("strength", 10 * (Number(event.key) || 10));
  else return;
  event.preventDefault();
}

export function listKeys(list) {
  for (const [key, meaning] of keys) {
    const term = document.createElement("dt");
    term.innerHTML = "<kbd></kbd>";
    term.firstChild.textContent = key;
    const description = document.createElement("dd");
    description.textContent = meaning;
    list.append(term, description);
  }
}
