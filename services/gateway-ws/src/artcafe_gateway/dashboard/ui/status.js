// How an agent's presence is shown: a word with a mark, never a colour alone.

import { h } from "./dom.js";

/** Return the badge of a status. */
export function statusBadge(status) {
  return h("span", { class: `status ${status}` }, status);
}
