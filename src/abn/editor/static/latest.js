/** Asks questions one at a time. While an answer is awaited, only the latest question is kept. */

export class Latest {
  /**
   * `ask(question)` returns a promise of the answer, `show(question, answer)` shows it, `fail(error)` an error.
   * `setBusy` is called with true when an answer is awaited, and with false when none is any more.
   */
  constructor({ ask, show, fail, setBusy }) {
    Object.assign(this, { ask, show, fail, setBusy, asking: false, waiting: null });
  }

  async put(question) {
    this.waiting = question;
    if (this.asking) return;
    this.asking = true;
    this.setBusy(true);
    while (this.waiting) {
      const next = this.waiting;
      this.waiting = null;
      try {
        this.show(next, await this.ask(next));
      } catch (error) {
        this.fail(error);
      }
    }
    this.asking = false;
    this.setBusy(false);
  }
}
