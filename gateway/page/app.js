// Puts the page together: the bar, what is shown below it, and the keyboard.

import * as api from "./api.js";
import { el, icon, say } from "./dom.js";
import { Filters } from "./filters.js";
import { switchLanguage, t } from "./i18n.js";
import { IndexPage } from "./index.js";
import { Viewer } from "./photo.js";
import * as route from "./route.js";
import { Wall } from "./wall.js";

const main = document.getElementById("main");
const bar = document.getElementById("bar");
const panel = document.getElementById("filters");
const viewer = document.getElementById("viewer");

let session = null;
let wall, filters, photo, indexPage, field;
// The view before this one; a photo that was opened from another view goes back there when closed.
let before = null;
let returns = false;
// The photo that was looked at last: the wall has the focus there afterwards.
let left = null;

const current = () => route.read();

function go(params) {
  location.hash = route.wall(params);
}

function buildBar() {
  field = el("input", {
    type: "search", name: "q", placeholder: t("placeholder"), "aria-label": t("search"), autocomplete: "off",
    spellcheck: "false", enterkeyhint: "search", maxlength: "500",
  });
  const form = el("form", { class: "search", role: "search", onsubmit: (event) => {
    event.preventDefault();
    const { params, view } = current();
    go(route.changed(view === "index" ? new URLSearchParams() : params, { q: field.value.trim(), like: null }));
    wall.toFocus = true;
    field.blur();
  } }, icon("search"), field, el("kbd", { text: "/", "aria-hidden": "true" }), help());
  const button = el("button", { type: "button", class: "quiet", id: "filter-button", "aria-label": t("filters"), title: t("filters"),
    "aria-controls": "filters", "aria-expanded": "false", onclick: async () => {
      await filters.toggle(current().params);
      button.setAttribute("aria-expanded", String(!panel.hidden));
    } }, icon("filter"));
  bar.replaceChildren(
    el("a", { class: "home", href: "#/", "aria-label": t("home"), title: t("home") }, el("img", { src: "page/icon.svg", alt: "" })),
    form,
    button,
    el("a", { class: "quiet", id: "index-link", href: route.INDEX, text: t("index") }),
    el("button", { type: "button", class: "quiet language", text: t("other"), "aria-label": t("otherName"), onclick: switchLanguage }),
  );
}

function help() {
  return el("div", { class: "help" },
    el("ul", {}, t("help").map(([query, what]) => el("li", {},
      el("button", { type: "button", onclick: () => {
        field.value = query;
        field.form.requestSubmit();
      } }, el("code", { text: query }), el("span", { text: what }))))),
    el("p", { class: "hint", text: t("keys") }));
}

async function show() {
  if (!session?.signed_in) return;
  const { view, id, params } = current();
  document.body.dataset.view = view;
  if (view === "photo") {
    returns ||= before !== null && before !== "photo";
    left = id;
  } else {
    returns = false;
    photo.close();
  }
  before = view;
  try {
    if (view === "index") {
      panel.hidden = true;
      document.title = `${t("indexTitle")} · immich-indexer`;
      await indexPage.show();
      return;
    }
    indexPage.hide();
    const query = params.get("q") ?? "";
    if (document.activeElement !== field) field.value = query;
    document.title = query ? `${query} · immich-indexer` : "immich-indexer";
    filters.show(params);
    const showing = wall.show(params);
    if (!filters.chips.isConnected || filters.chips.nextSibling !== wall.head) wall.head.before(filters.chips);
    if (view === "photo") await Promise.all([photo.show(id, params), showing]);
    else {
      await showing;
      if (left) wall.focus(left);
      else if (wall.toFocus) wall.focusFirst();
      left = null;
      wall.toFocus = false;
    }
  } catch (error) {
    failed(error);
  }
}

/** What couldn't be done: said where the photos would be, or, not signed in, asked for. */
function failed(error) {
  if (error.status === 401) {
    session = { ...session, signed_in: false };
    signIn();
    return;
  }
  wall?.again();
  photo?.close();
  indexPage?.hide();
  main.replaceChildren(el("div", { class: "empty", role: "alert" },
    el("h2", { text: error.status ? t("notHere") : t("away") }),
    el("p", { text: error.message || t("awayHint") }),
    el("button", { type: "button", class: "button", text: t("again"), onclick: start })));
}

function signIn() {
  photo?.close();
  indexPage?.hide();
  panel.hidden = true;
  document.body.dataset.view = "sign-in";
  const key = el("input", { type: "password", name: "key", autocomplete: "off", required: true, "aria-label": t("key"), placeholder: t("key") });
  const problem = el("p", { class: "bad", role: "alert" });
  main.replaceChildren(el("form", { class: "sign-in", onsubmit: async (event) => {
    event.preventDefault();
    problem.textContent = "";
    try {
      session = await api.signIn(key.value);
      wall.again();
      await show();
    } catch (error) {
      problem.textContent = error.message || t("away");
      key.select();
    }
  } }, el("h1", { text: t("signInTitle") }), el("p", { class: "hint", text: t("signInHint") }), key, problem,
  el("button", { type: "submit", class: "button primary", text: t("signIn") })));
  key.focus();
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=checkbox]), select, textarea");
  if (event.key === "/" && !typing && !viewer.open) {
    event.preventDefault();
    field?.focus();
    field?.select();
  } else if (event.key === "Escape" && event.target === field) {
    if (field.value) field.value = "";
    else field.blur();
    event.preventDefault();
  } else if (event.key === "ArrowDown" && (event.target === field || event.target === document.body)) {
    event.preventDefault();
    wall.focusFirst();
  } else if (event.key === "Escape" && !panel.hidden) {
    document.getElementById("filter-button").click();
    document.getElementById("filter-button").focus();
  } else if (event.key === "Escape" && !viewer.open && current().view === "index") {
    history.length > 1 ? history.back() : go(new URLSearchParams());
  }
});

async function start() {
  try {
    session = await api.session();
  } catch (error) {
    buildOnce();
    failed(error);
    return;
  }
  buildOnce();
  indexPage.session = session;
  if (session.signed_in) await show();
  else signIn();
}

function buildOnce() {
  if (wall) return;
  buildBar();
  wall = new Wall(main);
  filters = new Filters(panel, go, (error) => say(error.message || t("away")));
  photo = new Viewer(viewer, {
    neighbours: (id) => wall.neighbours(id),
    close: () => (returns ? history.back() : location.replace(route.wall(current().params))),
  }, failed);
  indexPage = new IndexPage(main, session, failed, start);
}

window.addEventListener("hashchange", show);
start();
