/** The image with its map, and the strokes on it. */

import { applied, boxCoverage, cellSize, ellipseCoverage, strokeCoverage, union } from "./brush.js";
import { heatmap } from "../shared/heatmap.js";

const shapes = { box: boxCoverage, ellipse: ellipseCoverage };

export class Canvas {
  /**
   * `element` is the canvas. `settings()` returns {shape, adding, size, softness, strength, opacity, colors,
   * showGrid}, with the size as a share of the picture's longer side. `onPaint(map)` is called while one paints,
   * `onPainted(map)` after each stroke, `onRefused()` if one paints on a map that only is to be seen.
   */
  constructor(element, settings, { onPaint, onPainted, onRefused }) {
    Object.assign(this, { element, settings, onPaint, onPainted, onRefused });
    this.context = element.getContext("2d");
    this.heat = document.createElement("canvas");
    this.picture = this.map = this.stroke = this.pointer = null;
    this.enabled = true;
    element.addEventListener("pointerdown", (event) => this.onPointerDown(event));
    element.addEventListener("pointermove", (event) => this.onPointerMove(event));
    element.addEventListener("pointerup", () => this.end());
    element.addEventListener("pointercancel", () => this.cancel());
    element.addEventListener("pointerleave", () => this.movePointer(null));
    element.addEventListener("keydown", (event) => this.onKey(event));
    element.addEventListener("focus", () => {
      if (this.picture && element.matches(":focus-visible")) this.movePointer(this.pointer ?? this.middle);
    });
  }

  /** Shows another picture, an HTMLImageElement or null, with a map of rows · columns values. */
  open(picture, rows, columns) {
    this.cancel();
    this.picture = picture;
    if (picture === null) {
      this.context.clearRect(0, 0, this.element.width, this.element.height);
      return;
    }
    this.element.width = picture.naturalWidth;
    this.element.height = picture.naturalHeight;
    this.element.style.setProperty("--ratio", picture.naturalWidth / picture.naturalHeight);
    this.grid = { rows, columns, width: picture.naturalWidth, height: picture.naturalHeight };
  }

  /** Shows a map. One can paint on it if it is `editable`. */
  show(map, editable) {
    this.cancel();
    this.map = map;
    this.enabled = editable;
    this.draw();
  }

  /** The centre of the cell in the middle. */
  get middle() {
    const { rows, columns, width, height } = this.grid;
    return [((Math.floor(columns / 2) + 0.5) * width) / columns, ((Math.floor(rows / 2) + 0.5) * height) / rows];
  }

  get radius() {
    const share = this.settings().size / 2;
    return Math.max(share * Math.max(this.grid.width, this.grid.height), cellSize(this.grid) / 2);
  }

  begin(point) {
    if (!this.picture || this.stroke) return;
    if (!this.enabled) {
      this.onRefused();
      return;
    }
    this.stroke = { base: this.map, from: point, last: point, coverage: null };
    this.extend(point);
  }

  extend(point) {
    const { base, from, last, coverage } = this.stroke;
    const { shape, softness, strength, adding } = this.settings();
    const added = shape === "brush"
      ? strokeCoverage(this.grid, last, point, this.radius, softness)
      : shapes[shape](this.grid, from, point);
    this.stroke.coverage = shape === "brush" && coverage ? union(coverage, added) : added;
    this.stroke.last = point;
    this.map = applied(base, this.stroke.coverage, strength, adding);
    this.draw();
    this.onPaint(this.map);
  }

  end() {
    if (!this.stroke) return;
    this.stroke = null;
    this.draw();
    this.onPainted(this.map);
  }

  cancel() {
    if (!this.stroke) return;
    this.map = this.stroke.base;
    this.stroke = null;
    this.draw();
    this.onPaint(this.map);
  }

  movePointer(point) {
    this.pointer = point;
    if (point && this.stroke) this.extend(point);
    else this.draw();
  }

  place(event) {
    const frame = this.element.getBoundingClientRect();
    return [
      ((event.clientX - frame.left) * this.element.width) / frame.width,
      ((event.clientY - frame.top) * this.element.height) / frame.height,
    ];
  }

  onPointerDown(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    this.element.setPointerCapture(event.pointerId);
    this.pointer = this.place(event);
    this.begin(this.pointer);
  }

  onPointerMove(event) {
    if (event.isPrimary) this.movePointer(this.place(event));
  }

  onKey(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!this.picture || event.ctrlKey || event.metaKey) return;
    const { width, height, columns, rows } = this.grid;
    const point = this.pointer ?? this.middle;
    if (event.key in steps) {
      const [right, down] = steps[event.key];
      this.movePointer([
        Math.min(Math.max(point[0] + (right * width) / columns, 0), width),
        Math.min(Math.max(point[1] + (down * height) / rows, 0), height),
      ]);
    } else if (event.key === " ") {
      // A dab of the brush is complete. A box and an ellipse wait for their second corner.
      const second = this.stroke !== null;
      this.begin(point);
      if (second || this.settings().shape === "brush") this.end();
    } else if (event.key === "Escape" && this.stroke) {
      this.cancel();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  draw() {
    if (!this.picture || !this.map) return;
    const { context, grid, picture } = this;
    const { opacity, colors, showGrid } = this.settings();
    const colored = heatmap(this.map, grid, colors);
    this.heat.width = colored.width;
    this.heat.height = colored.height;
    this.heat.getContext("2d").putImageData(colored, 0, 0);
    context.globalAlpha = 1;
    context.drawImage(picture, 0, 0, grid.width, grid.height);
    context.globalAlpha = opacity;
    context.drawImage(this.heat, 0, 0, grid.width, grid.height);
    context.globalAlpha = 1;
    if (showGrid) this.drawGrid();
    if (this.pointer && this.enabled) this.drawPointer();
  }

  drawGrid() {
    const { context, grid } = this;
    this.line(() => {
      for (let column = 1; column < grid.columns; column += 1) {
        const x = (column * grid.width) / grid.columns;
        context.moveTo(x, 0);
        context.lineTo(x, grid.height);
      }
      for (let row = 1; row < grid.rows; row += 1) {
        const y = (row * grid.height) / grid.rows;
        context.moveTo(0, y);
        context.lineTo(grid.width, y);
      }
    });
  }

  drawPointer() {
    const { context, pointer: [x, y] } = this;
    const brush = this.settings().shape === "brush";
    this.line(() => {
      context.arc(x, y, brush ? this.radius : 8, 0, 2 * Math.PI);
      for (const [dx, dy] of brush ? [] : [[16, 0], [0, 16]]) {
        context.moveTo(x - dx, y - dy);
        context.lineTo(x + dx, y + dy);
      }
    });
  }

  /** Draws a line that is seen on dark and on light: white within black. */
  line(path) {
    for (const [width, color] of [[3, "#0008"], [1, "#fff"]]) {
      this.context.beginPath();
      this.context.lineWidth = width;
      this.context.strokeStyle = color;
      path();
      this.context.stroke();
    }
  }
}
