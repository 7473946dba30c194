// The gateway's routes. Addresses are relative, so that a proxy may serve the page anywhere.

import { why } from "./reasons.js";

/** What went wrong, as the gateway says it; status 0: it doesn't answer. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function call(path, { method = "GET", body, signal } = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      signal,
      credentials: "same-origin",
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "");
  }
  const content = await answer.json().catch(() => null);
  if (!answer.ok) throw new Problem(answer.status, why(content?.detail) ?? answer.statusText);
  return content;
}

const id = encodeURIComponent;

export const session = () => call("session");
export const signIn = (key) => call("session", { method: "POST", body: { key } });
export const signOut = () => call("session", { method: "DELETE" });
export const search = (body, signal) => call("search", { method: "POST", body, signal });
export const photos = (body, signal) => call("photos", { method: "POST", body, signal });
export const photo = (asset, query, signal) => call(`assets/${id(asset)}?q=${id(query)}`, { signal });
export const filters = () => call("filters");
export const index = () => call("index");
export const retry = (body) => call("index/retry", { method: "POST", body });
export const redo = (asset, task) =>
  call(`assets/${id(asset)}/reprocess?task=${id(task)}`, { method: "POST" });
export const redone = (request) => call(`reprocess/${id(request)}`);
export const thumbnail = (asset, size = "thumbnail") => `assets/${id(asset)}/thumbnail?size=${size}`;

/**
 * Watch what happens; the browser connects again by itself. Returns a function that stops.
 * handlers: queue(), job({task, state}), resync(), live(boolean).
 */
export function watch(asset, handlers) {
  const source = new EventSource(asset ? `events?asset=${id(asset)}` : "events");
  source.addEventListener("open", () => handlers.live?.(true));
  source.addEventListener("error", () => handlers.live?.(false));
  for (const name of ["queue", "job", "resync"]) {
    source.addEventListener(name, (event) => handlers[name]?.(JSON.parse(event.data)));
  }
  return () => source.close();
}
