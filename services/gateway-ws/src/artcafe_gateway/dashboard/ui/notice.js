// Short notices at the edge of the window, read out by screen readers.

import { h } from "./dom.js";

const SECONDS = 6;

/**
 * Tell something; `kind` is "good", "bad" or "info". Failures stay until they are dismissed. What is told again takes
 * the place of what was told before, or a few of them would lie over the button that was pressed.
 *
 * While a dialog is open that is told in it: nothing outside it can be used or is read out.
 */
export function notice(text, kind = "info") {
  const close = h("button", { type: "button", class: "quiet", "aria-label": "Dismiss" }, "×");
  const item = h("div", { class: `notice ${kind}` }, h("span", {}, text), close);
  close.addEventListener("click", () => item.remove());
  const dialog = [...document.querySelectorAll("dialog[open]")].at(-1);
  const place = dialog?.querySelector(":scope > .notices") ?? document.getElementById("notices");
  for (const told of [...place.children]) if (told.isEqualNode(item)) told.remove();
  place.append(item);
  if (kind !== "bad") setTimeout(() => item.remove(), SECONDS * 1000);
}

/** Tell that something failed. */
export function failed(what, error) {
  if (error.name === "AbortError") return;
  notice(`${what}: ${error.message}`, "bad");
}
