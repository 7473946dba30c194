// Elements from data. Text goes in as text: what OCR read and what files are called is never markup.

/** An element; children are nodes or strings. Properties that start with "on" are listeners. */
export function el(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same for SVG. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "text") node.textContent = value;
    else if (name === "value" || name === "checked" || name === "disabled") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...present(children));
  return node;
}

const present = (children) =>
  children.flat(2).filter((child) => child !== null && child !== undefined && child !== false);

/** Put children in the place of those that are there; those that are null or false are left out. */
export function replace(node, ...children) {
  node.replaceChildren(...present(children));
}

const PATHS = {
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM20 20l-4-4",
  filter: "M4 6h16M7 12h10M10 18h4",
  close: "M6 6l12 12M18 6L6 18",
  left: "M15 5l-7 7 7 7",
  right: "M9 5l7 7-7 7",
  copy: "M9 9h10v11H9zM5 15V4h10",
  text: "M5 6h14M12 6v13M8 19h8",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4",
  play: "M8 5l11 7-11 7z",
  broken: "M4 5h16v14H4zM9 9l6 6M15 9l-6 6",
};

/** A line drawing, 24 by 24, for decoration only. */
export function icon(name) {
  return svg(
    "svg",
    { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" },
    svg("path", { d: PATHS[name] }),
  );
}

/** A text with some ranges of its characters (code points, as PostgreSQL counts) marked. */
export function marked(text, marks) {
  const characters = [...text];
  const parts = [];
  let at = 0;
  for (const [from, to] of marks) {
    if (from > at) parts.push(characters.slice(at, from).join(""));
    parts.push(el("mark", {}, characters.slice(from, to).join("")));
    at = to;
  }
  parts.push(characters.slice(at).join(""));
  return parts;
}

/** Say something to screen readers, and for a moment to everybody. */
export function say(text) {
  const said = document.getElementById("said");
  said.textContent = text;
  said.classList.add("shown");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => said.classList.remove("shown"), 2500);
}
