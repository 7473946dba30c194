// One photo: the picture with its text laid over it, to be selected like any text, and what can be done.

import * as api from "./api.js";
import { corners, drawing, isVertical, outline } from "./boxes.js";
import { el, icon, marked, replace, say, svg } from "./dom.js";
import { day, moment, number, t } from "./i18n.js";
import { why } from "./reasons.js";
import { Redo } from "./redo.js";
import * as route from "./route.js";

export class Viewer {
  /** go: {neighbours(id), close()}; failed: told of every error. */
  constructor(dialog, go, failed) {
    this.dialog = dialog;
    this.go = go;
    this.failed = failed;
    dialog.setAttribute("aria-label", t("details"));
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      go.close();
    });
    dialog.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.fit()).observe(dialog);
  }

  async show(id, params) {
    if (this.id === id && this.dialog.open) return;
    this.stop();
    this.id = id;
    this.params = params;
    this.aborted = new AbortController();
    const { signal } = this.aborted;
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.replaceChildren(this.bar(), el("p", { class: "loading", text: t("loading") }));
    try {
      const photo = await api.photo(id, params.get("q") ?? "", signal);
      if (signal.aborted) return;
      this.render(photo);
      this.unwatch = api.watch(id, {
        job: (event) => this.redos.forEach((redo) => redo.heard(event)),
        resync: () => this.redos.forEach((redo) => redo.look()),
      });
      await this.showSimilar(photo, signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status === 401) {
        this.close();
        this.failed(error);
        return;
      }
      this.dialog.replaceChildren(
        this.bar(),
        el("div", { class: "empty" }, el("h2", { text: t("notHere") }),
          el("p", { text: error.status === 404 ? t("gone") : error.message || t("away") })),
      );
    }
  }

  close() {
    this.stop();
    if (this.dialog.open) this.dialog.close();
    this.dialog.replaceChildren();
  }

  stop() {
    this.unwatch?.();
    this.unwatch = null;
    this.aborted?.abort();
    this.redos?.forEach((redo) => redo.stop());
    this.redos = [];
    this.id = null;
  }

  bar() {
    const [before, after] = this.go.neighbours(this.id);
    const step = (to, name, label) =>
      el("button", { type: "button", class: `step ${name}`, "aria-label": label, title: label, disabled: !to,
        onclick: () => this.step(to) }, icon(name));
    return el(
      "div",
      { class: "viewer-bar" },
      el("button", { type: "button", class: "quiet", "aria-label": t("close"), title: `${t("close")} (Esc)`,
        autofocus: true, onclick: () => this.go.close() }, icon("close")),
      el("span", { class: "steps" }, step(before, "left", t("previous")), step(after, "right", t("next"))),
    );
  }

  step(to) {
    if (to) location.replace(route.photo(to, this.params));
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const [before, after] = this.go.neighbours(this.id);
    if (event.key === "ArrowLeft") this.step(before);
    else if (event.key === "ArrowRight") this.step(after);
  }

  render(photo) {
    this.photo = photo;
    this.dialog.setAttribute("aria-label", photo.file_name);
    this.image = el("img", { class: "full", alt: photo.file_name, src: api.thumbnail(photo.asset_id, "preview") });
    this.figure = el("figure", { class: "picture" },
      el("img", { class: "soft", alt: "", src: api.thumbnail(photo.asset_id), onerror: (event) => event.target.remove() }), this.image);
    this.image.addEventListener("load", () => {
      this.figure.classList.add("loaded");
      this.size = { width: this.image.naturalWidth, height: this.image.naturalHeight };
      this.fit();
    });
    this.image.addEventListener("error", () => {
      this.figure.replaceChildren(el("div", { class: "empty" }, icon("broken"), el("p", { text: t("broken") })));
    });
    this.size = photo.width ? { width: photo.width, height: photo.height } : { width: 4, height: 3 };
    this.pointed = svg("svg", { class: "marks", viewBox: "0 0 1000 1000", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.layer = el("div", { class: "text-layer", lang: "zh" });
    this.figure.append(drawing(photo.matches, this.size), this.pointed, this.layer);
    this.room = el("div", { class: "room" }, this.figure);
    this.side = el("aside", { class: "side" });
    this.dialog.replaceChildren(this.bar(), this.room, this.side);
    this.fillSide();
    this.fit();
    this.dialog.scrollTop = 0;
  }

  /** As large as there is room; then the text laid over it, line by line. */
  fit() {
    if (!this.room?.isConnected || !this.figure.isConnected) return;
    const style = getComputedStyle(this.room);
    const width = this.room.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const phone = matchMedia("(max-width: 760px)").matches;
    const height = phone
      ? window.innerHeight * 0.62
      : this.room.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
    const scale = Math.min(width / this.size.width, height / this.size.height);
    const shown = { width: this.size.width * scale, height: this.size.height * scale };
    Object.assign(this.figure.style, { width: `${shown.width}px`, height: `${shown.height}px` });
    // A selection in it is somebody's work: the layer is made anew only where it must be.
    const key = `${shown.width} ${shown.height} ${this.photo.read_at}`;
    if (key === this.layer.dataset.key) return;
    this.layer.dataset.key = key;
    const laid = this.photo.lines.filter((line) => line.box).map((line) => lay(line, shown));
    // What is selected over several lines is copied as several.
    this.layer.replaceChildren(...laid.flatMap(({ node }) => [node, el("br")]));
    // All are measured before any is changed: one layout, however many lines.
    const lengths = laid.map(({ node, vertical }) => (vertical ? node.offsetHeight : node.offsetWidth) || 1);
    laid.forEach((line, n) => stretch(line, lengths[n]));
  }

  point(line) {
    this.pointed.replaceChildren(...(line?.box ? [outline(line.box)] : []));
  }

  fillSide() {
    const { photo } = this;
    const marks = new Map(photo.matches.map((match) => [match.line - 1, match.marks]));
    const lines = photo.lines.map((line, n) =>
      el("li", { onpointerenter: () => this.point(line), onpointerleave: () => this.point(null) },
        ...marked(line.text, marks.get(n) ?? [])));
    const dead = photo.jobs.filter((job) => job.state === "dead");
    const details = Object.entries(photo.details).map(([, value]) => el("p", { text: value }));
    this.redos?.forEach((redo) => redo.stop());
    this.redos = photo.mine
      ? ["ocr", "clip"].map((task) => new Redo(photo, task, () => this.refresh(), this.failed))
      : [];
    this.similar = el("div", { class: "strip" });
    replace(
      this.side,
      el("header", {}, el("h1", { text: photo.file_name }), el("p", { class: "hint", text: day(photo.taken_at) }), ...details),
      dead.length ? el("section", { class: "warning" }, el("h2", { text: t("photoFailed") }),
        ...dead.map((job) => el("p", { title: job.reason, text: t("of", { what: t(job.task === "ocr" ? "text" : "picture"), is: why(job.reason) }) }))) : null,
      el("section", { class: "read" },
        el("div", { class: "row" }, el("h2", { text: t("text") }),
          lines.length ? el("button", { type: "button", class: "small", onclick: () => this.copy() }, icon("copy"), t("copyAll")) : null),
        lines.length ? this.list(lines) : el("p", { class: "hint", text: photo.read_at ? t("noText") : t("notRead") })),
      el("section", { class: "like-this", hidden: true },
        el("div", { class: "row" }, el("h2", { text: t("similar") }),
          el("a", { class: "small", href: route.wall(new URLSearchParams({ like: photo.asset_id })), text: t("seeAll") })),
        this.similar),
      el("section", { class: "redo" }, el("h2", { text: t("redo") }),
        photo.mine ? this.redos.map((redo) => redo.element) : el("p", { class: "hint", text: t("notMine") }),
        el("p", { class: "hint made" },
          photo.read_at && el("span", { text: t("readAt", { when: moment(photo.read_at) }), title: photo.text_model }),
          photo.embedded_at && el("span", { text: t("seenAt", { when: moment(photo.embedded_at) }), title: photo.picture_model }))),
    );
  }

  /** On a phone the first lines and those that match; what can be done is below them. */
  list(lines) {
    const list = el("ol", { class: "lines", lang: "zh", tabindex: "0", "aria-label": t("text") }, lines);
    const more = lines.length > 12 && el("button", { type: "button", class: "small more",
      text: t("allLines", { n: number(lines.length) }), onclick: () => list.classList.add("whole") });
    return more ? [list, more] : list;
  }

  /** After something was redone: what is known now, the buttons as they are. */
  async refresh() {
    const { id } = this;
    const redos = this.redos;
    try {
      const photo = await api.photo(id, this.params.get("q") ?? "");
      if (id !== this.id) return;
      const similar = this.similar;
      const shown = !similar.parentElement.hidden;
      this.photo = photo;
      this.fillSide();
      this.redos.forEach((redo, n) => {
        redo.stop();
        redo.element.replaceWith(redos[n].element);
      });
      this.redos = redos;
      this.similar.replaceWith(similar);
      this.similar = similar;
      similar.parentElement.hidden = !shown;
      this.figure.querySelector(".marks").replaceWith(drawing(photo.matches, this.size));
      this.fit();
    } catch (error) {
      this.failed(error);
    }
  }

  async copy() {
    const text = this.photo.lines.map((line) => line.text).join("\n");
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Not over plain HTTP from another computer: by a selection, as before there was a clipboard.
      const field = el("textarea", { class: "away", value: text });
      this.dialog.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    say(t("copied"));
  }

  async showSimilar(photo, signal) {
    if (!photo.embedded_at) return;
    const answer = await api.search({ q: "", like: photo.asset_id, limit: 9 }, signal);
    if (signal.aborted || !answer.results.length) return;
    this.similar.parentElement.hidden = false;
    this.similar.replaceChildren(
      ...answer.results.slice(0, 8).map((one) =>
        el("a", { href: route.photo(one.asset_id, new URLSearchParams({ like: photo.asset_id })),
          "aria-label": one.file_name, title: one.file_name },
        el("img", { src: api.thumbnail(one.asset_id), alt: "", loading: "lazy" }))),
    );
  }
}

/** A line of text at its place in the picture: seen only when it is selected. */
function lay(line, size) {
  const [a, b, , d] = corners(line.box).map(([x, y]) => [x * size.width, y * size.height]);
  const across = Math.hypot(b[0] - a[0], b[1] - a[1]);
  const down = Math.hypot(d[0] - a[0], d[1] - a[1]);
  const vertical = isVertical(line.box, line.text, size);
  const thickness = vertical ? across : down;
  const node = el("div", { class: vertical ? "laid vertical" : "laid", text: line.text });
  Object.assign(node.style, {
    left: `${a[0]}px`,
    top: `${a[1]}px`,
    fontSize: `${thickness * 0.86}px`,
    lineHeight: `${thickness}px`,
  });
  return { node, vertical, length: vertical ? down : across, angle: Math.atan2(b[1] - a[1], b[0] - a[0]) };
}

/** As long as it is in the picture, at its angle. */
function stretch({ node, vertical, length, angle }, natural) {
  node.style.transform = `rotate(${angle}rad) scale${vertical ? "Y" : "X"}(${length / natural})`;
}
