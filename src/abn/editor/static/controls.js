/** The buttons, sliders and lists around the image. */

import { filled, inverted } from "./brush.js";
import { checked, element } from "./dom.js";
import { listKeys, onKey } from "./keys.js";

const share = (id) => Number(element(id).value) / 100;

/** Shows a message on the page. */
export function say(text, failure = false) {
  element("status").textContent = text;
  element("status").classList.toggle("failure", failure);
}

/** Does something, and shows an error as a message. */
export async function trying(action) {
  try {
    await action();
  } catch (error) {
    say(error.message, true);
  }
}

/** Returns how one paints, and how the map is drawn. */
export function settings(colormaps) {
  return {
    shape: checked("shape"),
    adding: checked("effect") === "add",
    size: share("size"),
    softness: share("softness"),
    strength: share("strength"),
    opacity: element("hide").checked ? 0 : share("opacity"),
    colors: colormaps[element("colormap").value],
    showGrid: element("grid").checked,
  };
}

const KEPT = ["size", "softness", "strength", "opacity", "colormap"];

/** Sets sliders and colours as they were left, and keeps them for the next time. */
function keepSettings() {
  for (const id of KEPT) {
    const kept = localStorage.getItem(`abn.${id}`);
    if (kept !== null) element(id).value = kept;
    if (!element(id).value) element(id).selectedIndex = 0; // a colour map that is no longer there
    element(id).addEventListener("input", () => localStorage.setItem(`abn.${id}`, element(id).value));
  }
}

/** Fills the lists, and hides what this network, or a page for reading alone, does not have. */
export function prepare(folder) {
  element("colormap").append(...Object.keys(folder.colormaps).map((name) => new Option(name)));
  element("classes").append(...(folder.classMaps ? folder.outputNames : []).map((name) => new Option(name, name)));
  element("class-choice").hidden = !folder.classMaps;
  element("order").disabled = !folder.ofClasses;
  const mistakes = element("order").querySelector("[value=mistakes]");
  mistakes.disabled = folder.images.every(({ label }) => label === null);
  if (mistakes.disabled) element("order").title = "Mistakes are known if folders are named like the classes.";
  for (const id of ["save", "remove"]) element(id).hidden = folder.readOnly;
  element("read-only").hidden = !folder.readOnly;
  element("save").title = `Ctrl+S, into ${folder.edits}`;
  listKeys(element("key-list"));
  keepSettings();
}

/** Lets the controls act on the page. */
export function connect(page) {
  const actions = {
    undo: () => page.undo(),
    redo: () => page.redo(),
    save: () => page.save(),
    remove: () => page.remove(),
    fill: () => page.paint((map) => filled(map, 1)),
    clear: () => page.paint((map) => filled(map, 0)),
    invert: () => page.paint(inverted),
    own: () => page.paint((_, own) => own),
    mask: () => page.startFromMask(),
    back: () => page.leaveClass(),
    previous: () => page.step(-1),
    next: () => page.step(1),
    help: () => element("keys").showModal(),
  };
  for (const [id, action] of Object.entries(actions)) {
    element(id).addEventListener("click", ({ currentTarget }) => {
      if (currentTarget.ariaDisabled !== "true") action();
    });
  }
  for (const slider of document.querySelectorAll("input[type=range]")) {
    const show = () => {
      slider.nextElementSibling.textContent = `${slider.value} %`;
      page.canvas.draw();
    };
    slider.addEventListener("input", show);
    show();
  }
  for (const id of ["colormap", "grid", "hide"]) element(id).addEventListener("input", () => page.canvas.draw());
  element("order").addEventListener("input", (event) => page.strip.sort(event.target.value));
  element("class").addEventListener("change", (event) => {
    const number = page.folder.outputNames.indexOf(event.target.value);
    if (number >= 0) page.choose(number);
    else if (event.target.value) say(`There is no class ${event.target.value}.`, true);
  });
  document.addEventListener("keydown", (event) => onKey(event, page));
  addEventListener("beforeunload", (event) => {
    if (page.hasUnsaved()) event.preventDefault();
  });
}

/** Enables the buttons that can be used now. `can` tells it by their names. They keep the keyboard's focus. */
export function enable(can) {
  for (const [id, usable] of Object.entries(can)) element(id).ariaDisabled = String(!usable);
}
