// Where we are, in the address after #: what is searched for is never sent as part of an address.
//
//   #/?q=…&like=…&after=…      the wall
//   #/photo/<id>?q=…           one photo above the wall of that search
//   #/index                    the index page

export const FILTERS = ["after", "before", "type", "favorite", "archived", "album", "person", "tag", "place", "camera"];

export function read() {
  const [path, query = ""] = location.hash.slice(1).split(/\?(.*)/s);
  const parts = path.split("/").filter(Boolean);
  const params = new URLSearchParams(query);
  if (parts[0] === "photo" && parts[1]) return { view: "photo", id: parts[1], params };
  if (parts[0] === "index") return { view: "index", params };
  return { view: "wall", params };
}

function address(path, params) {
  const query = new URLSearchParams([...params].filter(([, value]) => value)).toString();
  return `#${path}${query ? `?${query}` : ""}`;
}

export const wall = (params) => address("/", params);
export const photo = (id, params) => address(`/photo/${id}`, params);
export const INDEX = "#/index";

/** The same parameters with some changed; null removes. */
export function changed(params, changes) {
  const made = new URLSearchParams(params);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") made.delete(name);
    else made.set(name, value);
  }
  return made;
}

function instant(date, end) {
  const [year, month, day] = date.split("-").map(Number);
  const when = end ? new Date(year, month - 1, day, 23, 59, 59, 999) : new Date(year, month - 1, day);
  return Number.isNaN(when.getTime()) ? undefined : when.toISOString();
}

/** Two values in one parameter; an address that somebody made up is no reason to fail. */
export function pair(value) {
  try {
    const both = JSON.parse(value);
    return Array.isArray(both) ? [both[0] ?? null, both[1] ?? null] : [null, null];
  } catch {
    return [null, null];
  }
}

/** The gateway's filter for these parameters; undefined where there is none. */
export function filter(params) {
  const made = {};
  const get = (name) => params.get(name);
  if (get("after")) made.takenAfter = instant(get("after"), false);
  if (get("before")) made.takenBefore = instant(get("before"), true);
  if (get("type")) made.type = get("type");
  if (get("favorite")) made.isFavorite = true;
  if (get("archived")) made.visibility = "archive";
  if (get("album")) made.albumIds = [get("album")];
  if (get("person")) made.personIds = [get("person")];
  if (get("tag")) made.tagIds = [get("tag")];
  if (get("place")) [made.country, made.city] = pair(get("place"));
  if (get("camera")) [made.make, made.model] = pair(get("camera"));
  return Object.keys(made).length ? made : undefined;
}
