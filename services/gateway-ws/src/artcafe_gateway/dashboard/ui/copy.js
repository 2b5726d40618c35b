// Copy text, and blocks of text made for copying.

import { h } from "./dom.js";
import { notice } from "./notice.js";

/** Return a button that copies what `text()` returns; `copied()` or `refused()` is called then. */
export function copyButton(text, label = "Copy", { copied = () => {}, refused = () => {} } = {}) {
  const button = h("button", { type: "button", class: "small" }, label);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
    } catch {
      // Without https the clipboard is not there for pages.
      refused();
      notice("The browser does not allow copying here: select the text instead", "bad");
      return;
    }
    copied();
    notice("Copied", "good");
  });
  return button;
}

/** Return lines to copy, with a title. */
export function codeBlock(title, text) {
  return h(
    "figure",
    { class: "code" },
    h("figcaption", {}, h("span", {}, title), copyButton(() => text)),
    h("pre", { tabindex: "0", "aria-label": title }, h("code", {}, text)),
  );
}

/** Have the browser save text as a file. */
export function download(name, text, type = "text/plain") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
