/** The maps of an image: one Float32Array of T · rows · columns values, and lists of lists for JSON. */

export const flat = (maps) => Float32Array.from(maps.flat(2));

export const same = (one, other) => one.every((value, index) => value === other[index]);

/** Returns maps as lists of lists, (T, h, w). */
export function nested(maps, [tasks, rows, columns]) {
  const row = (task, number) => Array.from(maps.subarray((task * rows + number) * columns).subarray(0, columns));
  return Array.from({ length: tasks }, (_, task) => Array.from({ length: rows }, (_, number) => row(task, number)));
}

/** Returns the map of one task. */
export function mapOf(maps, task, [, rows, columns]) {
  return maps.slice(task * rows * columns, (task + 1) * rows * columns);
}

/** Returns the maps with another map of one task. */
export function withMap(maps, task, map) {
  const changed = maps.slice();
  changed.set(map, task * map.length);
  return changed;
}
