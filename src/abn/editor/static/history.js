/** The states of one image's maps, for undo and redo. */

const MOST = 100;

export class History {
  constructor(state) {
    this.states = [state];
    this.index = 0;
  }

  get current() {
    return this.states[this.index];
  }

  get canUndo() {
    return this.index > 0;
  }

  get canRedo() {
    return this.index + 1 < this.states.length;
  }

  /** Adds a state after the current one, and drops what was undone. */
  add(state) {
    this.states = [...this.states.slice(0, this.index + 1), state].slice(-MOST);
    this.index = this.states.length - 1;
  }

  undo() {
    if (this.canUndo) this.index -= 1;
  }

  redo() {
    if (this.canRedo) this.index += 1;
  }
}
