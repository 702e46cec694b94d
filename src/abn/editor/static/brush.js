/**
 * The arithmetic of the brush, in pure functions.
 *
 * A map and a coverage are a Float32Array of rows · columns values from 0 to 1, row by row. A grid is
 * {rows, columns, width, height}: the cells of the map, and the size of the picture on which they lie. Points
 * are [x, y] in pixels of the picture.
 */

/** Returns how much of each cell a dab or a stroke from one point to another covers. */
export function strokeCoverage(grid, from, to, radius, softness) {
  const edge = Math.max(cellSize(grid), 2 * radius * softness);
  return perCell(grid, (x, y) => limit((radius + edge / 2 - distance([x, y], from, to)) / edge));
}

/** Returns how much of each cell lies within the box between two corners. */
export function boxCoverage(grid, from, to) {
  const across = shares(grid.columns, grid.width, from[0], to[0]);
  const down = shares(grid.rows, grid.height, from[1], to[1]);
  return Float32Array.from({ length: grid.rows * grid.columns }, (_, index) =>
    down[Math.floor(index / grid.columns)] * across[index % grid.columns]);
}

/** Returns how much of each cell, about, lies within the ellipse in the box between two corners. */
export function ellipseCoverage(grid, from, to) {
  const cell = cellSize(grid);
  const center = [(from[0] + to[0]) / 2, (from[1] + to[1]) / 2];
  const halves = [0, 1].map((axis) => Math.max(Math.abs(to[axis] - from[axis]) / 2, cell / 2));
  return perCell(grid, (x, y) => {
    const ratio = Math.hypot((x - center[0]) / halves[0], (y - center[1]) / halves[1]);
    return limit(0.5 - ((ratio - 1) * Math.min(...halves)) / cell);
  });
}

/** Returns the larger of two coverages in each cell: a stroke that crosses itself counts once. */
export function union(one, other) {
  return one.map((value, index) => Math.max(value, other[index]));
}

/** Returns the map with attention added, or removed, where it is covered. */
export function applied(map, coverage, strength, adding) {
  const target = adding ? 1 : 0;
  return map.map((value, index) => value + strength * coverage[index] * (target - value));
}

export function filled(map, value) {
  return map.map(() => value);
}

export function inverted(map) {
  return map.map((value) => 1 - value);
}

/** Returns the length of a side of a cell: the mean of both sides, in pixels of the picture. */
export function cellSize(grid) {
  return (grid.width / grid.columns + grid.height / grid.rows) / 2;
}

function perCell(grid, value) {
  return Float32Array.from({ length: grid.rows * grid.columns }, (_, index) => {
    const row = Math.floor(index / grid.columns);
    const column = index % grid.columns;
    return value(((column + 0.5) * grid.width) / grid.columns, ((row + 0.5) * grid.height) / grid.rows);
  });
}

/** Returns the share of each of the cells along an axis that lies between two places. */
function shares(count, length, one, other) {
  const [low, high] = [Math.min(one, other), Math.max(one, other)].map((place) => (place * count) / length);
  return Array.from({ length: count }, (_, cell) => limit(Math.min(high, cell + 1) - Math.max(low, cell)));
}

/** Returns the distance of a point from the line between two points. */
function distance([x, y], [x1, y1], [x2, y2]) {
  const squared = (x2 - x1) ** 2 + (y2 - y1) ** 2;
  const along = squared ? limit(((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / squared) : 0;
  return Math.hypot(x - x1 - along * (x2 - x1), y - y1 - along * (y2 - y1));
}

function limit(value) {
  return Math.min(Math.max(value, 0), 1);
}
