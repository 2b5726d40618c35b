// Pages by the part of the address after "#": a page is left by aborting its signal.

import { replace } from "./ui/dom.js";

/**
 * Show the page that the address names, in `main`, now and whenever it changes.
 *
 * `routes` are `{path, view, may}`: `path` like "/agents/:id", `view({params, signal, query})` returns its
 * element, `may()` tells whether the person may see it. `home()` is where unknown addresses lead.
 */
export class Router {
  #routes;
  #home;
  #main = null;
  #page = null;
  #onChange;

  constructor(routes, home, onChange) {
    this.#routes = routes;
    this.#home = home;
    this.#onChange = onChange;
    addEventListener("hashchange", () => this.#main && this.#show(true));
  }

  /** Begin to show pages. */
  open(main) {
    this.#main = main;
    this.#show(false);
  }

  /** Leave the page and show none. */
  close() {
    this.#page?.abort();
    this.#page = null;
    this.#main = null;
  }

  #show(moved) {
    const [path, search = ""] = location.hash.slice(1).split("?");
    const found = this.#find(path);
    if (!found) {
      // The change of the address brings us here again.
      location.replace(`#${this.#home()}`);
      return;
    }
    this.#page?.abort();
    this.#page = new AbortController();
    const view = found.route.view({ params: found.params, query: new URLSearchParams(search), signal: this.#page.signal });
    replace(this.#main, view);
    const heading = view.querySelector("h1");
    document.title = `${heading?.textContent ?? "Dashboard"} · ArtCafe PubSub`;
    if (moved && heading) {
      // Keyboards and screen readers go on where the new page begins.
      heading.tabIndex = -1;
      heading.focus({ preventScroll: true });
      scrollTo(0, 0);
    }
    this.#onChange(path);
  }

  #find(path) {
    for (const route of this.#routes) {
      const names = [];
      const pattern = route.path.replace(/:(\w+)/g, (_, name) => {
        names.push(name);
        return "([^/]+)";
      });
      const match = new RegExp(`^${pattern}$`).exec(path);
      if (match && route.may()) {
        return { route, params: Object.fromEntries(names.map((name, i) => [name, decoded(match[i + 1])])) };
      }
    }
    return null;
  }
}

/** Return a part of an address as it was meant; one that was cut within a letter is what it says, and of nothing. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
