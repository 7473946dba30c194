// The wall: photos in rows of one height, in the order of the search, what matches drawn on them.

import * as api from "./api.js";
import { centre, drawing } from "./boxes.js";
import { el, icon, marked } from "./dom.js";
import { day, decimal, number, t } from "./i18n.js";
import { why } from "./reasons.js";
import * as route from "./route.js";

const PAGE = 60;
const NARROWEST = 0.56;
const WIDEST = 2.4;
const UNKNOWN = 4 / 3;

export class Wall {
  /** root: what the wall is shown in; others may take it over meanwhile. */
  constructor(root) {
    this.head = el("div", { class: "head", "aria-live": "polite" });
    this.grid = el("div", { class: "wall" });
    this.end = el("div", { class: "end" });
    this.root = root;
    this.cells = [];
    this.key = null;
    this.more = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && this.next(), {
      rootMargin: "800px",
    });
    this.more.observe(this.end);
    this.resized = new ResizeObserver(() => this.layout());
    this.resized.observe(this.grid);
    this.grid.addEventListener("keydown", (event) => this.move(event));
  }

  /** Show the photos of these parameters; what is shown already stays as it is. */
  async show(params) {
    if (!this.head.isConnected) this.root.replaceChildren(this.head, this.grid, this.end);
    const key = params.toString();
    if (key === this.key) {
      this.layout();
      return;
    }
    this.key = key;
    this.params = new URLSearchParams(params);
    this.offset = 0;
    this.cells = [];
    this.loading = null;
    this.stop?.abort();
    this.root.setAttribute("aria-busy", "true");
    this.grid.classList.add("stale");
    await this.next();
  }

  /** Load it all again. */
  again() {
    this.key = null;
  }

  async next() {
    if (this.key === null || this.offset === null || this.loading === this.key) return;
    const { key, offset } = this;
    this.loading = key;
    this.stop = new AbortController();
    try {
      const answer = await this.ask(offset, this.stop.signal);
      if (key !== this.key) return;
      if (offset === 0) this.grid.replaceChildren();
      this.grid.classList.remove("stale");
      this.offset = answer.next_offset;
      this.add(answer.results);
      this.announce(answer);
    } catch (error) {
      if (error.name === "AbortError" || key !== this.key) return;
      this.key = null;
      throw error;
    } finally {
      if (this.loading === key) this.loading = null;
      this.root.removeAttribute("aria-busy");
    }
    // The end may be in sight still.
    this.more.unobserve(this.end);
    this.more.observe(this.end);
  }

  ask(offset, signal) {
    const query = this.params.get("q") ?? "";
    const like = this.params.get("like");
    const filter = route.filter(this.params);
    return query.trim() || like
      ? api.search({ q: query, limit: PAGE, offset, ...(like && { like }), ...(filter && { filter }) }, signal)
      : api.photos({ limit: PAGE, offset, ...(filter && { filter }) }, signal);
  }

  add(results) {
    for (const result of results) {
      const cell = this.cell(result);
      this.cells.push(cell);
      this.grid.append(cell.link);
    }
    this.layout();
  }

  cell(result) {
    const cell = { result, aspect: result.width ? result.width / result.height : UNKNOWN };
    const lines = result.lines ?? [];
    const image = el("img", {
      src: api.thumbnail(result.asset_id), alt: "", loading: "lazy", decoding: "async", draggable: "false",
    });
    cell.stage = el("span", { class: "stage" }, image, drawing(lines, { width: cell.aspect, height: 1 }));
    image.addEventListener("load", () => {
      const aspect = image.naturalWidth / image.naturalHeight;
      cell.link.classList.add("loaded");
      if (Math.abs(aspect / cell.aspect - 1) < 0.03) return;
      cell.aspect = aspect;
      this.later();
    });
    image.addEventListener("error", () => {
      cell.link.classList.add("broken");
      cell.stage.replaceChildren(icon("broken"), el("span", { text: t("broken") }));
    });
    cell.focus = lines.find((line) => line.box) ? centre(lines.find((line) => line.box).box) : [0.5, 0.3];
    cell.link = el(
      "a",
      {
        class: "cell",
        href: route.photo(result.asset_id, this.params),
        "aria-label": [result.file_name, ...lines.map((line) => line.text)].join(" · "),
        "data-id": result.asset_id,
      },
      cell.stage,
      result.type === "VIDEO" && el("span", { class: "badge" }, icon("play"), t("video")),
      caption(result, this.params.get("like")),
    );
    return cell;
  }

  announce(answer) {
    const query = this.params.get("q") ?? "";
    const like = this.params.get("like");
    const count = this.cells.length;
    const filtered = route.filter(this.params) !== undefined;
    const parts = [];
    if (like) {
      parts.push(
        el("a", { class: "like", href: route.photo(like, new URLSearchParams()) },
          el("img", { src: api.thumbnail(like), alt: "" })),
        el("h1", { text: t("similarTo") }),
      );
    } else {
      parts.push(el("h1", { text: query.trim() ? query : t("newest"), hidden: !count }));
    }
    if (count) {
      parts.push(el("span", { class: "count", text: t(this.offset === null ? "found" : "foundMore", { n: number(count) }) }));
    }
    if (answer.picture_problem) parts.push(el("p", { class: "hint", text: t("byTextOnly", { why: why(answer.picture_problem) }) }));
    const blind = like && answer.picture_search === false;
    if (blind && count) parts.push(el("p", { class: "hint", text: t("notEmbedded") }));
    this.head.replaceChildren(...parts);
    if (!count) this.end.replaceChildren(this.empty(query, filtered, blind));
    else this.end.replaceChildren();
  }

  empty(query, filtered, blind) {
    const like = this.params.get("like");
    const searched = query.trim() || like;
    const hint = filtered ? "nothingFiltered" : query.trim() ? "nothingHint" : blind ? "notEmbedded" : like ? "nothingSimilarHint" : "noPhotosHint";
    return el(
      "div",
      { class: "empty" },
      el("h1", { text: query.trim() ? t("nothingFor", { q: query }) : like ? t("nothingSimilar") : filtered ? t("nothing") : t("noPhotos") }),
      el("p", { text: t(hint) }),
      filtered
        ? el("a", { class: "button", href: route.wall(cleared(this.params)), text: t("clearFilters") })
        : searched ? el("a", { class: "button", href: "#/", text: t("newest") })
          : el("a", { class: "button", href: route.INDEX, text: t("seeIndex") }),
    );
  }

  later() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.layout());
  }

  /** Rows of one height that fill the width; a photo's part that doesn't fit is out of sight. */
  layout() {
    const room = this.grid.clientWidth;
    if (!room) return;
    const narrow = room < 640;
    const gap = narrow ? 3 : 6;
    const wanted = narrow ? 150 : Math.min(280, Math.max(200, room / 5.5));
    let top = 0;
    let row = [];
    let sum = 0;
    const place = (height) => {
      let left = 0;
      row.forEach((cell, n) => {
        const fills = sum * height + gap * (row.length - 1) > room - 2;
        const width = fills && n === row.length - 1 ? room - left : cell.shape * height;
        put(cell, left, top, width, height);
        left += width + gap;
      });
      top += height + gap;
      row = [];
      sum = 0;
    };
    for (const cell of this.cells) {
      cell.shape = Math.min(WIDEST, Math.max(NARROWEST, cell.aspect));
      row.push(cell);
      sum += cell.shape;
      const height = (room - gap * (row.length - 1)) / sum;
      if (height <= wanted) place(height);
    }
    // A last row stays as high as the others; a few photos alone have more room.
    const most = top === 0 ? wanted * 1.8 : wanted;
    if (row.length) place(Math.min(most, (room - gap * (row.length - 1)) / sum));
    this.grid.style.height = `${Math.max(0, top - gap)}px`;
  }

  /** Arrow keys go from photo to photo, up and down to the nearest one of the next row. */
  move(event) {
    const at = this.cells.findIndex((cell) => cell.link === document.activeElement);
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const here = this.cells[at];
    let to = null;
    if (event.key === "ArrowLeft") to = this.cells[at - 1];
    else if (event.key === "ArrowRight") to = this.cells[at + 1];
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") to = this.beside(here, event.key === "ArrowDown" ? 1 : -1);
    else if (event.key === "Home") to = this.cells[0];
    else if (event.key === "End") to = this.cells.at(-1);
    else return;
    event.preventDefault();
    (to ?? here).link.focus();
    (to ?? here).link.scrollIntoView({ block: "nearest" });
  }

  beside(here, direction) {
    const rows = [...new Set(this.cells.map((cell) => cell.top))];
    const top = rows[rows.indexOf(here.top) + direction];
    const middle = here.left + here.width / 2;
    return this.cells
      .filter((cell) => cell.top === top)
      .sort((a, b) => Math.abs(a.left + a.width / 2 - middle) - Math.abs(b.left + b.width / 2 - middle))[0];
  }

  focusFirst() {
    this.cells[0]?.link.focus();
  }

  /** The results before and after a photo. */
  neighbours(id) {
    const at = this.cells.findIndex((cell) => cell.result.asset_id === id);
    if (at >= this.cells.length - 3) this.next().catch(() => {});
    return at < 0 ? [] : [this.cells[at - 1]?.result.asset_id, this.cells[at + 1]?.result.asset_id];
  }

  focus(id) {
    this.cells.find((cell) => cell.result.asset_id === id)?.link.focus();
  }
}

function put(cell, left, top, width, height) {
  Object.assign(cell, { left, top, width, height });
  Object.assign(cell.link.style, {
    left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px`,
  });
  const full = width / height > cell.aspect
    ? { width, height: width / cell.aspect }
    : { width: height * cell.aspect, height };
  const shift = (room, size, share) => Math.min(0, Math.max(room - size, room / 2 - size * share));
  Object.assign(cell.stage.style, {
    width: `${full.width}px`,
    height: `${full.height}px`,
    left: `${shift(width, full.width, cell.focus[0])}px`,
    top: `${shift(height, full.height, cell.focus[1])}px`,
  });
}

function caption(result, like) {
  const best = (result.lines ?? []).reduce(
    (found, line) => (!found || (line.score ?? 0) > (found.score ?? 0) ? line : found), null);
  const similarity = result.vector_distance === null || result.vector_distance === undefined
    ? null : decimal(1 - result.vector_distance);
  return el(
    "span",
    { class: "caption", "aria-hidden": "true" },
    best && el("span", { class: "said" }, ...marked(best.text, best.marks)),
    el("span", { class: "name", text: `${result.file_name} · ${day(result.taken_at)}` }),
    el(
      "span",
      { class: "scores" },
      result.text_rank && el("span", { text: t("textScore", { rank: result.text_rank, score: decimal(result.text_score) }) }),
      similarity !== null && el("span", {
        text: like ? t("similarity", { score: similarity }) : t("pictureScore", { rank: result.vector_rank, score: similarity }),
      }),
    ),
  );
}

export function cleared(params) {
  return route.changed(params, Object.fromEntries(route.FILTERS.map((name) => [name, null])));
}
