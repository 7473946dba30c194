// Where text is in a picture. Boxes are four corners as shares of width and height, clockwise from
// the text's top left: x1,y1 … x4,y4.

import { svg } from "./dom.js";

// Latin letters and digits take about half the room of a Chinese character.
const width = (character) => (/[\u1100-\uffdc\u{20000}-\u{3ffff}]/u.test(character) ? 1 : 0.55);

const between = (a, b, share) => [a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share];

export function corners(box) {
  return [0, 2, 4, 6].map((at) => [box[at], box[at + 1]]);
}

/** Whether a line is written from top to bottom; size: the picture's, any unit. */
export function isVertical(box, text, size) {
  const [a, b, , d] = corners(box);
  const across = Math.hypot((b[0] - a[0]) * size.width, (b[1] - a[1]) * size.height);
  const down = Math.hypot((d[0] - a[0]) * size.width, (d[1] - a[1]) * size.height);
  return [...text].length > 1 && down > 1.5 * across;
}

/** Corners of a part of a line: characters [from, to). */
export function part(box, text, from, to, size) {
  const sizes = [...text].map(width);
  const total = sizes.reduce((sum, one) => sum + one, 0) || 1;
  const before = (n) => sizes.slice(0, n).reduce((sum, one) => sum + one, 0) / total;
  const [a, b, c, d] = corners(box);
  const [start, end] = [before(from), before(to)];
  if (isVertical(box, text, size)) {
    return [between(a, d, start), between(b, c, start), between(b, c, end), between(a, d, end)];
  }
  return [between(a, b, start), between(a, b, end), between(d, c, end), between(d, c, start)];
}

const points = (quad) => quad.map(([x, y]) => `${(x * 1000).toFixed(2)},${(y * 1000).toFixed(2)}`).join(" ");

/** A drawing to lay over the picture: matching lines framed, the matching characters in them marked. */
export function drawing(lines, size) {
  const made = svg("svg", {
    class: "marks", viewBox: "0 0 1000 1000", preserveAspectRatio: "none", "aria-hidden": "true",
  });
  for (const line of lines) {
    if (!line.box) continue;
    made.append(svg("polygon", { class: "line", points: points(corners(line.box)) }));
    for (const [from, to] of line.marks) {
      made.append(svg("polygon", { class: "hit", points: points(part(line.box, line.text, from, to, size)) }));
    }
  }
  return made;
}

/** One quadrilateral, to draw attention to a line. */
export function outline(box) {
  return svg("polygon", { class: "pointed", points: points(corners(box)) });
}

/** Centre of a line, as shares. */
export function centre(box) {
  const all = corners(box);
  return [0, 1].map((axis) => all.reduce((sum, corner) => sum + corner[axis], 0) / 4);
}
