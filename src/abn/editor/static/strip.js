/** The list of images, and what the network says of each. */

import * as api from "./api.js";

const POLL = 1000; // milliseconds between two questions for predictions

const orders = {
  name: () => 0,
  confidence: ({ prediction }) => prediction?.confidence ?? 2,
  mistakes: ({ prediction }) => (prediction?.correct === false ? -prediction.confidence : prediction?.confidence ?? 2),
};

export class Strip {
  /** `list` is the element of the list, `progress` that of a text. `choose(index)` is called for a chosen image. */
  constructor(list, progress, images, choose) {
    Object.assign(this, { list, progress, predicted: 0 });
    this.entries = images.map((image, index) => ({ ...image, index, prediction: null }));
    this.shown = [...this.entries];
    for (const entry of this.entries) {
      entry.item = itemOf(entry);
      entry.item.querySelector("button").onclick = () => choose(entry.index);
    }
    this.sort("name");
    this.follow();
  }

  /** Sorts by name, least confidence, or mistakes, of which the most confident come first. */
  sort(order) {
    this.order = order;
    const value = orders[order];
    this.shown = [...this.entries].sort((one, other) => value(one) - value(other) || one.index - other.index);
    const focused = this.list.contains(document.activeElement) ? document.activeElement : null;
    this.list.append(...this.shown.map(({ item }) => item));
    focused?.focus({ preventScroll: true });
  }

  /** Marks the image that is open. */
  mark(index) {
    for (const { item, index: other } of this.entries) {
      const button = item.querySelector("button");
      if (other === index) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    this.entries[index].item.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** Tells whether an image has a saved edit, and strokes that are not saved. */
  setEdited(index, edited, unsaved) {
    this.entries[index].edited = edited;
    this.entries[index].item.querySelector(".edited").textContent = unsaved ? "not saved" : edited ? "edited" : "";
    this.count();
  }

  count() {
    const { length } = this.entries;
    const edited = this.entries.filter((entry) => entry.edited).length;
    this.progress.textContent = this.predicted < length
      ? `${this.predicted} of ${length} images predicted`
      : `${edited} of ${length} images edited`;
  }

  /** Returns the index of the image some places further in the present order. */
  neighbour(index, step) {
    const place = this.shown.findIndex((entry) => entry.index === index) + step;
    return this.shown[Math.min(Math.max(place, 0), this.shown.length - 1)].index;
  }

  /** Asks for predictions until all images have one. Then sorts once more. */
  async follow() {
    for (;;) {
      this.count();
      try {
        const { predictions } = await api.predictions(this.predicted);
        for (const prediction of predictions) this.setPrediction(this.predicted++, prediction);
      } catch {
        // The page tells it at the next question of the user. Here, it is asked again.
      }
      if (this.predicted === this.entries.length) break;
      await new Promise((resolve) => setTimeout(resolve, POLL));
    }
    this.count();
    this.sort(this.order);
  }

  setPrediction(index, prediction) {
    const { item } = this.entries[index];
    this.entries[index].prediction = prediction;
    if (prediction.error !== undefined) item.querySelector(".prediction").textContent = prediction.error;
    if (prediction.prediction === undefined) return;
    const share = `${Math.round(100 * prediction.confidence)} %`;
    item.querySelector(".prediction").textContent = `${prediction.prediction} ${share}`;
    item.classList.toggle("mistake", prediction.correct === false);
    if (prediction.correct === false) item.querySelector(".verdict").textContent = `is ${this.entries[index].label}`;
  }
}

function itemOf({ name, label, edited, index }) {
  const item = document.createElement("li");
  item.innerHTML = `
    <button type="button"><img alt="" loading="lazy" width="64" height="64">
      <span class="file"><bdi></bdi></span><span class="prediction"></span>
      <span class="marks"><span class="verdict"></span> <span class="edited"></span></span></button>`;
  const picture = item.querySelector("img");
  picture.onerror = () => { picture.style.visibility = "hidden"; };
  picture.src = api.address(index, "thumbnail");
  item.querySelector(".file bdi").textContent = name;
  item.querySelector(".edited").textContent = edited ? "edited" : "";
  item.title = label === null ? name : `${name}: ${label}`;
  return item;
}
