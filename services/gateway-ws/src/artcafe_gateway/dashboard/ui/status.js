// How an agent's presence is shown: a word with a mark, never a colour alone.

import { h } from "./dom.js";

/** Return the badge of a status; `word` is said in its place where there is a better one. */
export function statusBadge(status, word = status) {
  return h("span", { class: `status ${status} ${word === status ? "" : word}` }, word);
}
