// "Redo text", "Redo picture": a button each, and how far it is, as it happens.

import * as api from "./api.js";
import { el, icon } from "./dom.js";
import { decimal, t } from "./i18n.js";
import { why } from "./reasons.js";

// What happens is told by events; this finds out what an event that was lost would have told.
const LOOK_SECONDS = 5;
const PATIENCE_SECONDS = 12;

export class Redo {
  /** ended: called when it is done or has failed. */
  constructor(photo, task, ended, failed) {
    Object.assign(this, { photo, task, ended, failed });
    this.button = el("button", { type: "button", class: "button", onclick: () => this.start() },
      icon(task === "ocr" ? "text" : "picture"), t(task === "ocr" ? "redoText" : "redoPicture"));
    this.progress = el("progress", { hidden: true, "aria-label": this.button.textContent });
    this.state = el("span", { class: "state", role: "status" });
    this.element = el("div", { class: "redo-task", "data-task": task }, this.button, this.state, this.progress);
    const job = photo.jobs.find((one) => one.task === task && one.state !== "dead");
    if (job) this.tell(job.state);
  }

  async start() {
    this.button.disabled = true;
    this.began = performance.now();
    this.tell("waiting");
    try {
      this.request = await api.redo(this.photo.asset_id, this.task);
      this.timer = setInterval(() => this.look(), LOOK_SECONDS * 1000);
      this.settle(this.request);
    } catch (error) {
      this.finish(t("failed", { why: error.message || t("away") }), "bad");
      if (error.status === 401) this.failed(error);
    }
  }

  /** A job event of this photo. */
  heard(event) {
    if (event.task !== this.task) return;
    if (event.state === "running" || event.state === "retrying") this.tell(event.state);
    else if (this.request) this.look();
    else this.ended();
  }

  /** Ask how far the request is. */
  async look() {
    if (!this.request || this.looking) return;
    this.looking = true;
    try {
      this.settle(await api.redone(this.request.id));
    } catch (error) {
      if (error.status) this.finish(t("failed", { why: error.message }), "bad");
    } finally {
      this.looking = false;
    }
  }

  settle(request) {
    if (!this.request || !request.finished_at) {
      if (this.shown === "waiting" && performance.now() - this.began > PATIENCE_SECONDS * 1000) {
        this.state.textContent = t("noWorker");
      }
      return;
    }
    if (request.status === "done") {
      this.finish(t("done", { s: decimal((performance.now() - this.began) / 1000, 1) }), "good");
    } else {
      this.finish(t("failed", { why: why(request.status.replace(/^failed: /, "")) }), "bad");
    }
    this.ended();
  }

  tell(state) {
    this.shown = state;
    this.progress.hidden = false;
    this.state.className = "state";
    this.state.textContent = t(state === "running" ? `running_${this.task}` : state);
  }

  finish(text, how) {
    this.stop();
    this.request = null;
    this.button.disabled = false;
    this.progress.hidden = true;
    this.state.className = `state ${how}`;
    this.state.textContent = text;
  }

  stop() {
    clearInterval(this.timer);
  }
}
