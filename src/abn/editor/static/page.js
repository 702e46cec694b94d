/** The page: opens images, keeps their edits, and joins the parts. */

import * as api from "./api.js";
import { showAnswer, verdict } from "./answers.js";
import { Canvas } from "./canvas.js";
import { connect, enable, prepare, say, settings, trying } from "./controls.js";
import { element, load } from "./dom.js";
import { History } from "./history.js";
import { Latest } from "./latest.js";
import { flat, mapOf, nested, same, withMap } from "./maps.js";
import { Strip } from "./strip.js";

class Page {
  constructor(folder) {
    this.folder = folder;
    this.images = new Map(); // by index, those that were opened: {name, label, own, history, saved, revision, mask}
    this.index = null;
    this.task = 0;
    this.classShown = null; // number of the class whose map is shown in place of the edit
    this.rows = [];
    this.loading = true;
    this.answerFailed = false;
    this.questions = new Latest({
      ask: ({ index, maps }) => api.answer(index, nested(maps, folder.shape)),
      show: ({ index }, rows) => {
        if (this.answerFailed) say("");
        this.answerFailed = false;
        if (index === this.index) this.showRows(rows);
      },
      fail: (error) => {
        this.answerFailed = true;
        say(error.message, true);
      },
      setBusy: (busy) => this.setBusy(busy || this.loading),
    });
    this.canvas = new Canvas(element("canvas"), () => settings(folder.colormaps), {
      onPaint: (map) => this.ask(withMap(this.image.history.current, this.task, map)),
      onPainted: (map) => this.change(withMap(this.image.history.current, this.task, map)),
      onRefused: () => say(`This is the map of ${folder.outputNames[this.classShown]}. Go back to the edit to paint.`, true),
    });
    this.strip = new Strip(element("strip"), element("progress"), folder.images, (index) => this.show(index));
  }

  /** The image that is shown. Undefined while it is loaded, and if it cannot be read. */
  get image() {
    return this.images.get(this.index);
  }

  async show(index) {
    this.canvas.open(null); // ends a stroke, which belongs to the image before
    this.index = index;
    this.classShown = null;
    this.setBusy(this.loading = true);
    this.strip.mark(index);
    element("name").textContent = this.folder.images[index].name;
    element("broken").hidden = true;
    element("canvas").hidden = false;
    element("class").value = "";
    this.update();
    say("Loading …");
    try {
      const image = await this.read(index);
      const picture = await load(api.address(index, "picture"));
      if (this.index !== index) return;
      const [, rows, columns] = this.folder.shape;
      this.canvas.open(picture, rows, columns);
      this.loading = false;
      this.refresh();
      say(image.problem ?? "", true);
    } catch (error) {
      if (this.index !== index) return;
      this.showBroken(error.message);
    }
  }

  showBroken(message) {
    element("broken").textContent = message;
    element("broken").hidden = false;
    element("canvas").hidden = true;
    element("rows").replaceChildren();
    element("verdict").textContent = "";
    this.setBusy(this.loading = false);
    say("");
  }

  setBusy(busy) {
    element("rows").setAttribute("aria-busy", String(busy));
  }

  /** Returns what is known of an image. It is asked for once. */
  async read(index) {
    if (!this.images.has(index)) {
      const { own, edit, ...known } = await api.image(index);
      const history = new History(flat(own));
      if (edit !== null) history.add(flat(edit));
      if (!this.images.has(index)) {
        this.images.set(index, { ...known, own: flat(own), history, saved: history.current });
      }
    }
    return this.images.get(index);
  }

  /** Shows the present state of the image: its map, the answer, the buttons. */
  refresh() {
    this.classShown = null;
    const maps = this.image.history.current;
    this.canvas.show(mapOf(maps, this.task, this.folder.shape), true);
    this.update();
    this.ask(maps);
  }

  ask(maps) {
    this.questions.put({ index: this.index, maps });
  }

  showRows(rows) {
    this.rows = rows;
    if (this.folder.ofClasses) element("verdict").textContent = verdict(rows);
    showAnswer(element("rows"), rows, {
      ofClasses: this.folder.ofClasses,
      chosen: this.folder.ofClasses ? this.classShown : this.task,
      choose: (number) => this.choose(number),
    });
  }

  /** Shows the map of a class, or lets one paint the map of a task. */
  async choose(number) {
    const { index } = this;
    say("");
    if (!this.folder.ofClasses) {
      this.canvas.cancel();
      this.task = number;
      this.refresh();
    } else if (number === this.classShown) {
      this.leaveClass();
    } else if (this.folder.classMaps && this.image) {
      await trying(async () => {
        const map = flat(await api.classMap(index, number));
        if (index !== this.index) return;
        this.classShown = number;
        this.canvas.show(map, false);
        this.showRows(this.rows);
        this.update();
      });
    }
  }

  /** Shows the edit again after the map of a class. */
  leaveClass() {
    if (this.classShown === null) return;
    element("class").value = "";
    this.refresh();
    element("canvas").focus();
  }

  /** Makes a new state of the image's maps, which can be undone. */
  change(maps) {
    if (!same(maps, this.image.history.current)) this.image.history.add(maps);
    say("");
    this.refresh();
  }

  /** Replaces the map of the task by `paint(map, own)`, where `own` is the network's map. */
  paint(paint) {
    const { own, history } = this.image;
    const [map, ownMap] = [history.current, own].map((maps) => mapOf(maps, this.task, this.folder.shape));
    this.change(withMap(history.current, this.task, paint(map, ownMap)));
  }

  undo() {
    say("");
    this.image.history.undo();
    this.refresh();
  }

  redo() {
    say("");
    this.image.history.redo();
    this.refresh();
  }

  async startFromMask() {
    const { index } = this;
    await trying(async () => {
      const masks = flat(await api.mask(index));
      if (index === this.index) this.paint(() => mapOf(masks, this.task, this.folder.shape));
    });
  }

  save() {
    const { index, image } = this;
    return this.keep(index, image, async () => {
      const before = image.saved;
      if (!this.isUnsaved(image)) return;
      say("Saving …");
      image.saved = image.history.current; // from now on, another state is not saved
      try {
        const maps = nested(image.saved, this.folder.shape);
        ({ revision: image.revision } = await api.save(index, maps, image.revision));
      } catch (error) {
        image.saved = before;
        throw error;
      }
      say(`Saved: ${image.name}`);
    });
  }

  remove() {
    const { index, image } = this;
    return this.keep(index, image, async () => {
      ({ revision: image.revision } = await api.remove(index, image.revision));
      image.saved = image.own;
      image.history.add(image.own);
      if (index === this.index) this.refresh();
      say("The saved edit is deleted. Undo and save bring it back.");
    });
  }

  /** Saves or removes, when what was begun before for this image is done. */
  async keep(index, image, action) {
    image.pending = (image.pending ?? 0) + 1;
    image.writing = (image.writing ?? Promise.resolve()).then(async () => {
      try {
        await action();
      } catch (error) {
        say(`Not done: ${error.message}`, true);
        if (error.status === 409) await trying(() => this.takeTheirs(index, image));
      }
      image.pending -= 1;
      this.mark(index);
      this.update();
    });
    await image.writing;
  }

  /** Shows the edit that somebody else saved in the meantime. One's own is the state before, for undo. */
  async takeTheirs(index, image) {
    const { edit, revision, problem } = await api.image(index);
    Object.assign(image, { revision, saved: edit === null ? image.own : flat(edit) });
    if (problem === null) {
      image.history.add(image.saved);
      if (index === this.index) this.refresh();
    }
    say("Not done: somebody else changed the edit of this image. "
      + (problem === null ? "It is shown now. Undo brings yours back." : `${problem} Saving replaces it.`), true);
  }

  isUnsaved({ history, saved }) {
    return !this.folder.readOnly && !same(history.current, saved);
  }

  hasUnsaved() {
    return [...this.images.values()].some((image) => image.pending || this.isUnsaved(image));
  }

  mark(index) {
    const image = this.images.get(index);
    this.strip.setEdited(index, image.revision > 0, this.isUnsaved(image));
  }

  /** Brings the buttons and the name up to date. */
  update() {
    const { image, classShown, folder } = this;
    const painting = image !== undefined && classShown === null && !this.loading;
    enable({
      undo: painting && image.history.canUndo,
      redo: painting && image.history.canRedo,
      save: painting && this.isUnsaved(image),
      remove: painting && image.revision > 0,
      mask: painting && image.mask,
      fill: painting,
      clear: painting,
      invert: painting,
      own: painting,
    });
    element("mask").title = image?.mask ? "" : "There is no mask of this image. The option --masks gives masks.";
    element("showing").hidden = classShown === null;
    if (classShown !== null) element("shown-class").textContent = `Map of ${folder.outputNames[classShown]}.`;
    if (image === undefined) return;
    const label = image.label === null ? "" : ` (${image.label})`;
    const task = folder.ofClasses ? "" : `, map of ${folder.outputNames[this.task]}`;
    element("name").textContent = image.name + label + task;
    this.mark(this.index);
  }

  /** Shows the image some places further in the list. */
  step(count) {
    this.show(this.strip.neighbour(this.index, count));
  }
}

await trying(async () => {
  const folder = await api.folder();
  prepare(folder);
  const page = new Page(folder);
  connect(page);
  await page.show(0);
});
