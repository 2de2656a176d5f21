// Where the memory map's labels stand: greedily, the most important first. A label that finds no free place is left out.
"use strict";

const CELL = 4; // pixels; free space is known to this precision
const DISTANCES = [8, 18, 30, 44, 62, 84, 116, 156]; // pixels from the dot; at most an eighth of the picture's width
const DIRECTIONS = Array.from({ length: 12 }, (_, i) => [Math.cos(i * Math.PI / 6), Math.sin(i * Math.PI / 6)]);

// How many dots lie in a box, in constant time: sums over a grid.
function crowd(dots, reach, width, height) {
  const columns = Math.ceil(width / CELL) + 1, rows = Math.ceil(height / CELL) + 1, across = columns + 1;
  const sums = new Int32Array(across * (rows + 1));
  for (const [x, y] of dots) {
    const column = Math.floor(x / CELL), row = Math.floor(y / CELL);
    if (column >= 0 && row >= 0 && column < columns && row < rows) sums[(row + 1) * across + column + 1] += 1;
  }
  for (let row = 1; row <= rows; row++) {
    for (let column = 1, line = 0; column <= columns; column++) {
      line += sums[row * across + column];
      sums[row * across + column] = line + sums[(row - 1) * across + column];
    }
  }
  const within = (value, most) => Math.max(0, Math.min(most, value));
  return (left, top, right, bottom) => {
    const a = within(Math.floor((left - reach) / CELL), columns), b = within(Math.floor((right + reach) / CELL) + 1, columns);
    const c = within(Math.floor((top - reach) / CELL), rows), d = within(Math.floor((bottom + reach) / CELL) + 1, rows);
    return sums[d * across + b] - sums[c * across + b] - sums[d * across + a] + sums[c * across + a];
  };
}

// `wanted`: the most important first, each {dots, forms}: the dots that it may stand at ([[x, y], ...]) and its texts
// with their widths ([[text, width], ...]), the best first. `taken`: boxes [left, top, right, bottom] that stay free.
// Returns {label, text, box, dot}, with no box over a dot (of radius `reach`), over another box, or outside the picture.
function placeLabels(wanted, dots, reach, width, height, tall = 18, taken = []) {
  const dotsIn = crowd(dots, reach, width, height), boxes = [...taken], placed = [];
  const free = ([left, top, right, bottom]) =>
    left >= 2 && top >= 2 && right <= width - 2 && bottom <= height - 2 &&
    !boxes.some((box) => left < box[2] + 2 && right > box[0] - 2 && top < box[3] + 2 && bottom > box[1] - 2) &&
    dotsIn(left, top, right, bottom) === 0;
  const spot = ([left, top], wide) => {
    for (const distance of DISTANCES.filter((far) => far <= width / 8)) {
      for (const [across, down] of DIRECTIONS) {
        const x = left + across * (reach + distance + wide / 2), y = top + down * (reach + distance + tall / 2);
        const box = [x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2];
        if (free(box)) return box;
      }
    }
    return null;
  };
  const first = (label) => {
    for (const [text, wide] of label.forms) {
      for (const dot of label.dots) {
        const box = spot(dot, wide);
        if (box) return { label, text, box, dot };
      }
    }
    return null;
  };
  for (const label of wanted) {
    const found = first(label);
    if (!found) continue;
    boxes.push(found.box);
    placed.push(found);
  }
  return placed;
}
