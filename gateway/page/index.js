// The index page: what is done, waiting and failed, how fast it goes, and who works.

import * as api from "./api.js";
import { el, replace, say } from "./dom.js";
import { decimal, duration, number, t } from "./i18n.js";
import { told, why } from "./reasons.js";
import * as route from "./route.js";

export class IndexPage {
  constructor(root, session, failed, signedOut) {
    Object.assign(this, { root, session, failed, signedOut });
    this.live = el("span", { class: "live" });
    this.rested = 0;
  }

  async show() {
    this.hide();
    this.root.replaceChildren(el("p", { class: "loading", text: t("loading") }));
    this.page = el("div", { class: "index-page" });
    await this.look();
    this.unwatch = api.watch(null, {
      queue: () => this.soon(),
      resync: () => this.soon(),
      live: (on) => {
        this.live.className = on ? "live on" : "live";
        this.live.textContent = t(on ? "live" : "notLive");
      },
    });
    // Rates and workers change without an event.
    this.timer = setInterval(() => this.soon(), 5000);
  }

  /** Look, but leave the database alone for four times as long as it takes to look. */
  soon() {
    if (this.planned || !this.page) return;
    this.planned = setTimeout(() => {
      this.planned = null;
      this.look();
    }, Math.max(0, this.rested - performance.now()));
  }

  hide() {
    this.unwatch?.();
    this.unwatch = null;
    clearInterval(this.timer);
    clearTimeout(this.planned);
    this.planned = null;
    this.page = null;
  }

  async look() {
    const { page } = this;
    if (this.looking || !page) return;
    this.looking = true;
    const began = performance.now();
    try {
      const status = await api.index();
      if (page !== this.page) return;
      this.render(status);
      if (!page.isConnected) this.root.replaceChildren(page);
    } catch (error) {
      if (page !== this.page) return;
      if (!page.isConnected || error.status === 401) this.failed(error);
      else {
        this.live.className = "live";
        this.live.textContent = error.message || t("away");
      }
    } finally {
      this.looking = false;
      this.rested = began + 5 * (performance.now() - began);
    }
  }

  render(status) {
    const focused = document.activeElement?.dataset?.retry;
    const scope = this.session.mode === "folder" ? "folder" : status.everybody ? "everybody" : "mine";
    replace(
      this.page,
      el("header", { class: "row" },
        el("div", {}, el("h1", { text: t("indexTitle") }), el("p", { class: "hint", text: `${t(scope)} · ${t("photosN", { n: number(status.photos) })}` })),
        this.live),
      el("div", { class: "cards" }, status.tasks.map((task) => taskCard(task, status.photos))),
      el("p", { class: "pace" }, pace(status)),
      status.clip_problem && el("p", { class: "warning", text: t("clipAway", { why: why(status.clip_problem) }) }),
      this.failures(status),
      workers(status),
      el("footer", { class: "hint" },
        el("p", { text: status.clip_model ? t("model", { name: status.clip_model }) : t("noModel") }),
        this.session.mode === "immich" && el("p", {}, t("signedIn", { name: this.session.name }), " ",
          this.session.by_key && el("button", { type: "button", class: "link", text: t("signOut"), onclick: () => this.signOut() }))),
    );
    if (focused) this.page.querySelector(`[data-retry="${CSS.escape(focused)}"]`)?.focus();
  }

  failures(status) {
    if (!status.failures.length) return el("section", {}, el("h2", { text: t("failures") }), el("p", { class: "hint", text: t("noFailures") }));
    return el("section", { class: "failures" },
      el("div", { class: "row" }, el("h2", { text: t("failures") }),
        status.failures.length > 1 && el("button", { type: "button", class: "small", "data-retry": "all", text: t("retryAll"), onclick: () => this.retry({}) })),
      status.everybody && this.session.mode === "immich" && el("p", { class: "hint", text: t("othersHidden") }),
      el("ul", {}, status.failures.map((group) => this.failure(group))));
  }

  failure(group) {
    return el("li", { class: "failure" },
      el("div", { class: "row" },
        el("div", {},
          el("p", { class: "reason", ...told(group.reason) }),
          el("p", { class: "hint", text: `${t(group.task === "ocr" ? "text" : "picture")} · ${t("photosN", { n: number(group.photos) })}` })),
        el("button", { type: "button", class: "button", text: t("retry"), "data-retry": `${group.task} ${group.reason}`,
          onclick: () => this.retry({ task: group.task, reason: group.reason }) })),
      group.examples.length ? el("div", { class: "names" }, group.examples.map(([id, name]) =>
        el("a", { href: route.photo(id, new URLSearchParams()), text: name }))) : null);
  }

  async retry(which) {
    try {
      say(t("retried", { n: number((await api.retry(which)).jobs) }));
      await this.look();
    } catch (error) {
      if (error.status === 401) this.failed(error);
      else say(error.message || t("away"));
    }
  }

  async signOut() {
    await api.signOut();
    this.signedOut();
  }
}

function taskCard(task, photos) {
  const all = Math.max(photos, task.done, 1);
  const states = [
    task.waiting && ["", t("waitingN", { n: number(task.waiting) })],
    task.running && ["busy", t("runningN", { n: number(task.running) })],
    task.retrying && ["", t("retryingN", { n: number(task.retrying) })],
    task.failed && ["bad", t("failedN", { n: number(task.failed) })],
  ].filter(Boolean);
  return el("section", { class: "card", "data-task": task.task },
    el("h2", { text: t(task.task === "ocr" ? "text" : "picture") }),
    el("p", { class: "big" }, number(Math.min(task.done, photos)), el("span", { text: ` / ${number(photos)}` })),
    el("progress", { value: task.done, max: all, "aria-label": t(task.task === "ocr" ? "text" : "picture") }),
    el("p", { class: "states" }, states.length ? states.map(([how, text]) => el("span", { class: how, text })) : el("span", { class: "good", text: photos ? t("allDone") : "" })));
}

/** photos: a second. */
function rate(photos) {
  const [key, count] = photos < 1 ? ["slowly", photos * 60] : ["rate", photos];
  return t(key, { n: decimal(count, count < 10 ? 1 : 0) });
}

function pace(status) {
  const busy = status.tasks.some((task) => task.waiting || task.running || task.retrying);
  const parts = [];
  if (status.rate > 0 && busy) parts.push(rate(status.rate));
  if (status.seconds_left !== null) parts.push(t("left", { t: duration(status.seconds_left) }));
  return parts.join(" · ") || (busy ? "" : t("noRate"));
}

function workers(status) {
  if (!status.working) {
    return el("section", { class: "warning" }, el("h2", { text: t("noWorkers") }), el("p", { text: t("noWorkersHint") }));
  }
  if (!status.workers.length) return el("section", {}, el("h2", { text: t("workers") }), el("p", { class: "hint", text: t("worker", { n: number(status.working) }) }));
  const age = (worker) => (new Date(status.looked_at) - new Date(worker.started_at)) / 1000;
  return el("section", {}, el("h2", { text: t("workers") }),
    el("ul", { class: "workers" }, status.workers.map((worker) =>
      el("li", {},
        el("p", {}, el("b", { text: worker.host }), el("span", { class: "hint", text: ` ${worker.pid} · ${worker.device}` })),
        el("p", { class: "hint", text: [
          `${t("up")} ${duration(age(worker))}`, `${t("doneN")} ${number(worker.done)}`,
          worker.failed ? `${t("failedCount")} ${number(worker.failed)}` : null,
          worker.rate > 0 ? rate(worker.rate) : null,
        ].filter(Boolean).join(" · ") }),
        worker.note && el("p", { class: "note", ...told(worker.note) })))));
}
