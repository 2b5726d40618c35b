// Short notices at the edge of the window, read out by screen readers.

import { h } from "./dom.js";

const SECONDS = 6;

/** Tell something; `kind` is "good", "bad" or "info". Failures stay until they are dismissed. */
export function notice(text, kind = "info") {
  const close = h("button", { type: "button", class: "quiet", "aria-label": "Dismiss" }, "×");
  const item = h("div", { class: `notice ${kind}` }, h("span", {}, text), close);
  close.addEventListener("click", () => item.remove());
  document.getElementById("notices").append(item);
  if (kind !== "bad") setTimeout(() => item.remove(), SECONDS * 1000);
}

/** Tell that something failed. */
export function failed(what, error) {
  if (error.name === "AbortError") return;
  notice(`${what}: ${error.message}`, "bad");
}
