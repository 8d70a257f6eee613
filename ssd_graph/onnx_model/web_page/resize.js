// A picture of any size as the network's 300 x 300 pixels, with the bits that Pillow 13's BILINEAR gives in Python:
// a tent as wide as the reduction, weights in units of 2^-22, and 8 bits between the two passes.

const SIDE = 300;
const BITS = 22;
const HALF = 1 << (BITS - 1);
const STRIP_PIXELS = 2 ** 20; // phones refuse a canvas of a whole large photo
const STRIP_ROWS = 2048;

/**
 * Uint8Array [300, 300, 3], RGB, of a picture.
 * readRows(top, count) gives, or promises, the RGBA bytes of `count` rows from row `top` on.
 */
export async function preprocess(width, height, readRows) {
  const rowsFirst = height - SIDE > 2 * Math.max(0, width - SIDE); // Pillow's choice; roundings differ by the order
  const length = rowsFirst ? width * 4 : SIDE * 3;
  const lines = new Uint8Array(height * length);
  const most = Math.max(1, Math.min(STRIP_ROWS, Math.floor(STRIP_PIXELS / width)));
  for (let top = 0; top < height; top += most) {
    const strip = await readRows(top, Math.min(most, height - top));
    lines.set(rowsFirst ? strip : across(strip, width), top * length);
  }
  const flat = down(lines, length);
  return rowsFirst ? across(flat, width) : flat;
}

/** RGB bytes, 300 pixels a row, of RGBA bytes with `width`. */
function across(rgba, width) {
  const columns = taps(width), height = rgba.length / (4 * width);
  const result = new Uint8Array(height * SIDE * 3);
  let at = 0;
  for (let y = 0; y < height; y++)
    for (let x = 0; x < SIDE; x++)
      for (let c = 0; c < 3; c++) result[at++] = weigh(rgba, columns[x], y * width * 4 + c, 4);
  return result;
}

/** 300 rows of rows that have `length` bytes. */
function down(bytes, length) {
  const rows = taps(bytes.length / length);
  const result = new Uint8Array(SIDE * length);
  for (let y = 0; y < SIDE; y++)
    for (let i = 0; i < length; i++) result[y * length + i] = weigh(bytes, rows[y], i, length);
  return result;
}

/** For each of the 300 places along a side: the first of `length` pixels that counts, and the weights from there. */
function taps(length) {
  const scale = length / SIDE, reach = Math.max(scale, 1), steepness = 1 / reach;
  return Array.from({ length: SIDE }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(length, Math.trunc(centre + reach + 0.5));
    const tent = [];
    for (let at = first; at < end; at++) tent.push(Math.max(0, 1 - Math.abs((at - centre + 0.5) * steepness)));
    const sum = tent.reduce((total, weight) => total + weight, 0);
    return { first, weights: Int32Array.from(tent, weight => Math.trunc(0.5 + (weight / sum) * 2 ** BITS)) };
  });
}

/** One level: the weighted sum of bytes that lie `step` apart. */
function weigh(bytes, { first, weights }, offset, step) {
  let sum = HALF;
  for (let k = 0, at = offset + first * step; k < weights.length; k++, at += step) sum += bytes[at] * weights[k];
  return Math.min(255, sum >> BITS);
}
