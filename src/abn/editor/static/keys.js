/** The keys of the page, as in picture editors. */

import { checked, element } from "./dom.js";

const pick = (name, value) => document.querySelector(`input[name=${name}][value=${value}]`).click();
const press = (id) => element(id).click();
const slide = (id, step) => set(id, Number(element(id).value) + step);

function set(id, value) {
  element(id).value = value;
  element(id).dispatchEvent(new Event("input"));
}

/** Each line of the help: the keys, what they do, and which action of the page they run. */
const keys = [
  ["B", "brush", () => pick("shape", "brush")],
  ["M", "box", () => pick("shape", "box")],
  ["L", "ellipse", () => pick("shape", "ellipse")],
  ["A", "add", () => pick("effect", "add")],
  ["E", "remove (eraser)", () => pick("effect", "remove")],
  ["X", "swap add and remove", () => pick("effect", checked("effect") === "add" ? "remove" : "add")],
  ["[", "smaller brush", () => slide("size", -2)],
  ["]", "larger brush", () => slide("size", 2)],
  ["{", "harder edge", () => slide("softness", -10)],
  ["}", "softer edge", () => slide("softness", 10)],
  ["1 … 9, 0", "strength of 10 … 90, 100 %", null],
  ["F", "attention everywhere", () => press("fill")],
  ["Delete", "attention nowhere", () => press("clear")],
  ["I", "invert", () => press("invert")],
  ["R", "back to the network's own map", () => press("own")],
  ["G", "grid of the map", () => press("grid")],
  ["H", "hide the map, or show it", () => press("hide")],
  ["Ctrl+Z", "undo", () => press("undo")],
  ["Ctrl+Shift+Z", "redo", () => press("redo")],
  ["Ctrl+Y", "redo", () => press("redo")],
  ["Ctrl+S", "save", () => press("save")],
  ["PageDown", "next image", (page) => page.step(1)],
  ["PageUp", "previous image", (page) => page.step(-1)],
  ["Arrows", "on the image: move the brush", null],
  ["Space", "on the image: paint, or set a corner of a box or an ellipse", null],
  ["Escape", "cancel the stroke, or leave the map of a class", (page) => page.leaveClass()],
  ["?", "this list", () => press("help")],
];

/** Runs the action of a key on the page, unless one is writing a text. */
export function onKey(event, page) {
  if (event.altKey || document.querySelector("dialog[open]")) return;
  const command = event.ctrlKey || event.metaKey;
  const writing = event.target.matches("input:not([type=range], [type=radio], [type=checkbox]), select");
  if (writing && !["PageUp", "PageDown", ...(command ? ["s"] : [])].includes(event.key)) return;
  const name = (command ? "Ctrl+" : "") + (command && event.shiftKey ? "Shift+" : "");
  const pressed = (name + event.key).toLowerCase();
  const [, , action] = keys.find(([key]) => key.toLowerCase() === pressed) ?? [];
  if (action && event.repeat && pressed === "ctrl+s") event.preventDefault();
  else if (action) action(page);
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
