/** Colours of a map, enlarged as the library enlarges it: bilinearly, between the centres of cells. */

const LONGEST = 256;

/** Returns the map as an image with the proportions of the picture. `colors` are 256 times [r, g, b]. */
export function heatmap(map, grid, colors) {
  const scale = LONGEST / Math.max(grid.width, grid.height);
  const width = Math.max(Math.round(grid.width * scale), 1);
  const height = Math.max(Math.round(grid.height * scale), 1);
  const values = enlarged(map, grid, width, height);
  const image = new ImageData(width, height);
  values.forEach((value, index) => {
    const [red, green, blue] = colors[Math.min(Math.floor(value * 256), 255)];
    image.data.set([red, green, blue, 255], 4 * index);
  });
  return image;
}

/** Returns a map of height · width values. */
export function enlarged(map, { rows, columns }, width, height) {
  const across = neighbours(columns, width);
  const down = neighbours(rows, height);
  const values = new Float32Array(width * height);
  for (let y = 0; y < height; y += 1) {
    const [top, bottom, lower] = down[y];
    for (let x = 0; x < width; x += 1) {
      const [left, right, righter] = across[x];
      const above = map[top * columns + left] * (1 - righter) + map[top * columns + right] * righter;
      const below = map[bottom * columns + left] * (1 - righter) + map[bottom * columns + right] * righter;
      values[y * width + x] = above * (1 - lower) + below * lower;
    }
  }
  return values;
}

/** Returns for each of the new places the two old cells beside it, and the weight of the second. */
function neighbours(count, length) {
  return Array.from({ length }, (_, place) => {
    const position = Math.min(Math.max(((place + 0.5) * count) / length - 0.5, 0), count - 1);
    const first = Math.floor(position);
    return [first, Math.min(first + 1, count - 1), position - first];
  });
}
