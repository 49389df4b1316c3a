"use strict";
// Drawing many points without a GPU: pixels written into an array, the nearest found by a grid.

// Five shapes in the order of figures.MARKERS (circle, square, triangle, diamond, plus), by the
// place of a pixel from the middle in units of the radius.
const SHAPES = [
  (x, y) => x * x + y * y <= 1,
  (x, y) => Math.abs(x) <= 0.9 && Math.abs(y) <= 0.9,
  (x, y) => y <= 0.9 && y >= -1.2 + 1.75 * Math.abs(x),
  (x, y) => Math.abs(x) + Math.abs(y) <= 1.3,
  (x, y) => Math.max(Math.abs(x), Math.abs(y)) <= 1.15 && Math.min(Math.abs(x), Math.abs(y)) <= 0.42,
];

// A shape as rows of pixels: dx, dy, and how much of the pixel it covers, 0 to 255.
const stamp = (kind, radius) => {
  const reach = Math.ceil(radius * 1.4), found = [];
  for (let dy = -reach; dy <= reach; dy++) {
    for (let dx = -reach; dx <= reach; dx++) {
      let inside = 0;
      for (let i = 0; i < 16; i++) {
        inside += SHAPES[kind]((dx + (i % 4) / 4 - 0.375) / radius, (dy + (i >> 2) / 4 - 0.375) / radius);
      }
      if (inside) found.push(dx, dy, Math.round((inside * 255) / 16));
    }
  }
  return Int16Array.from(found);
};

const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

// Write points into `pixels` (RGBA, one 32-bit number each); returns how many were on the canvas.
const paintPoints = (pixels, w, h, points, view) => {
  const { x, y, count, group, shown } = points, { scale, left, top, radius, styles } = view;
  pixels.fill(0);
  const stamps = styles.map((style) => stamp(style.shape, radius * style.size));
  const inks = styles.map((style) => rgb(style.color));
  const edge = Math.ceil(radius * 1.4) + 1;
  let drawn = 0;
  for (let i = 0; i < count; i++) {
    if (!shown[i]) continue;
    const px = (left + x[i] * scale + 0.5) | 0, py = (top + y[i] * scale + 0.5) | 0;
    if (px < edge || py < edge || px >= w - edge || py >= h - edge) continue;
    drawn++;
    const one = stamps[group[i]], [r, g, b] = inks[group[i]];
    const ink = 0xff000000 | (b << 16) | (g << 8) | r, at = py * w + px;
    for (let k = 0; k < one.length; k += 3) {
      const p = at + one[k + 1] * w + one[k], cover = one[k + 2];
      if (cover === 255) {
        pixels[p] = ink;
        continue;
      }
      const under = pixels[p];
      if (under === 0) {
        pixels[p] = (cover << 24) | (ink & 0xffffff);
        continue;
      }
      const rest = 255 - cover, alpha = Math.max(under >>> 24, cover);
      pixels[p] = (alpha << 24)
        | ((((under >>> 16) & 255) * rest + b * cover) / 255 << 16)
        | ((((under >>> 8) & 255) * rest + g * cover) / 255 << 8)
        | (((under & 255) * rest + r * cover) / 255);
    }
  }
  return drawn;
};

// Points by the cell of a square grid over 0 to 65535.
const makeGrid = (x, y, count) => {
  const side = 256, of = (i) => (y[i] >> 8) * side + (x[i] >> 8);
  const start = new Uint32Array(side * side + 1), order = new Uint32Array(count);
  for (let i = 0; i < count; i++) start[of(i) + 1]++;
  for (let c = 0; c < side * side; c++) start[c + 1] += start[c];
  const next = start.slice();
  for (let i = 0; i < count; i++) order[next[of(i)]++] = i;
  // The shown point nearest to a place, within a reach; -1 for none.
  const nearest = (qx, qy, reach, shown) => {
    let best = -1, least = reach * reach;
    const clamp = (v) => Math.max(0, Math.min(side - 1, Math.floor(v / 256)));
    for (let row = clamp(qy - reach); row <= clamp(qy + reach); row++) {
      for (let c = row * side + clamp(qx - reach); c <= row * side + clamp(qx + reach); c++) {
        for (let k = start[c]; k < start[c + 1]; k++) {
          const i = order[k], d = (x[i] - qx) ** 2 + (y[i] - qy) ** 2;
          if (d <= least && shown[i]) [best, least] = [i, d];
        }
      }
    }
    return best;
  };
  return { nearest };
};

// Whether a place is inside a polygon [x, y, x, y, ...] (even-odd rule).
const inside = (polygon, px, py) => {
  let odd = false;
  for (let i = 0, j = polygon.length - 2; i < polygon.length; j = i, i += 2) {
    const [ax, ay, bx, by] = [polygon[i], polygon[i + 1], polygon[j], polygon[j + 1]];
    if (ay > py !== by > py && px < ((bx - ax) * (py - ay)) / (by - ay) + ax) odd = !odd;
  }
  return odd;
};

// Rows as CSV that a spreadsheet opens without running what a name says.
const csvText = (rows) => "\ufeff" + rows.map((row) => row.map((cell) => {
  const text = /^[=+\-@\t\r]/.test(cell) ? `'${cell}` : String(cell);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}).join(",") + "\r\n").join("");

// A file's name without its ending.
const stem = (id) => {
  const name = id.split("/").pop(), dot = name.lastIndexOf(".");
  return dot > 0 ? name.slice(0, dot) : name;
};

// An EcoTaxa import table: names, a row of types, then a line an image, named as `predict` names it.
const ecotaxaText = (images, category) => [
  ["img_file_name", "object_id", "object_annotation_category", "object_annotation_status"],
  ["[t]", "[t]", "[t]", "[t]"],
  ...images.map(([id, object]) => [id, object || stem(id), category, "predicted"]),
].map((row) => row.map((cell) => cell.replace(/[\t\r\n]+/g, " ")).join("\t") + "\n").join("");
