// What to search among: a panel of fields, and a chip for each that is set.

import * as api from "./api.js";
import { el, icon } from "./dom.js";
import { day, t } from "./i18n.js";
import * as route from "./route.js";

export class Filters {
  constructor(panel, go, failed) {
    Object.assign(this, { panel, go, failed });
    this.chips = el("div", { class: "chips" });
    panel.setAttribute("aria-label", t("filters"));
  }

  /** What there is to choose from; asked for once. */
  async load() {
    this.choices ??= await api.filters();
    return this.choices;
  }

  async toggle(params) {
    this.panel.hidden = !this.panel.hidden;
    if (this.panel.hidden) return;
    try {
      await this.load();
      this.fill(params);
      this.panel.querySelector("input, select")?.focus();
    } catch (error) {
      this.panel.hidden = true;
      this.failed(error);
    }
  }

  /** Bring panel and chips up to date. */
  async show(params) {
    this.params = params;
    const set = route.FILTERS.filter((name) => params.get(name));
    this.chips.hidden = !set.length;
    if (set.length) await this.load().catch(() => {});
    if (params !== this.params) return;
    this.chips.replaceChildren(...set.map((name) => {
      const what = this.describe(name, params.get(name));
      return el("button", { type: "button", class: "chip", "aria-label": t("remove", { what }), onclick: () => this.set(name, null) }, what, icon("close"));
    }));
    if (!this.panel.hidden && this.choices && !this.panel.contains(document.activeElement)) this.fill(params);
  }

  describe(name, value) {
    const named = (list) => list?.find((one) => one.id === value)?.name ?? t(name);
    if (name === "after" || name === "before") {
      const when = new Date(value);
      return `${t(name)} ${Number.isNaN(when.getTime()) ? value : day(value)}`;
    }
    if (name === "type") return t(value) ?? value;
    if (name === "album") return named(this.choices?.albums);
    if (name === "person") return named(this.choices?.people);
    if (name === "tag") return named(this.choices?.tags);
    if (name === "place") return route.pair(value).reverse().filter(Boolean).join(", ");
    if (name === "camera") return route.pair(value).filter(Boolean).join(" ");
    return t(name);
  }

  set(name, value) {
    this.go(route.changed(this.params, { [name]: value }));
  }

  fill(params) {
    const { choices } = this;
    const field = (name, control) => el("label", { class: "field" }, el("span", { text: t(name) }), control);
    const date = (name) => field(name, el("input", { type: "date", name, value: params.get(name) ?? "", onchange: (event) => this.set(name, event.target.value) }));
    const choose = (name, options) => options.length ? field(name, el("select", { name, onchange: (event) => this.set(name, event.target.value) },
      el("option", { value: "", text: t("all") }),
      options.map(([value, text]) => {
        const option = el("option", { value, text });
        option.selected = params.get(name) === value;
        return option;
      }))) : null;
    const check = (name) => el("label", { class: "check" }, el("input", { type: "checkbox", name, checked: Boolean(params.get(name)), onchange: (event) => this.set(name, event.target.checked ? "1" : null) }), t(name));
    const named = (list) => list.map((one) => [one.id, one.name]);
    this.panel.replaceChildren(
      date("after"), date("before"),
      ...[
        choices.videos && choose("type", [["IMAGE", t("IMAGE")], ["VIDEO", t("VIDEO")]]),
        choose("album", named(choices.albums)),
        choose("person", named(choices.people)),
        choose("tag", named(choices.tags)),
        choose("place", choices.places.map((one) => [JSON.stringify([one.country, one.city]), [one.city, one.country].filter(Boolean).join(", ")])),
        choose("camera", choices.cameras.map((one) => [JSON.stringify([one.make, one.model]), [one.make, one.model].filter(Boolean).join(" ")])),
        choices.favorites && check("favorite"),
        choices.archived && check("archived"),
      ].filter(Boolean),
    );
  }
}
