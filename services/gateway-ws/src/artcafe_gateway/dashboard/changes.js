// What others change in the organisation, as the server tells it: lists stay true without being asked for again.

import { watch } from "./live.js";

/** Tells "changed" with `{kind, id, action}`, and "missed" where some were not told and everything is to be read anew. */
class Changes extends EventTarget {
  #stop = null;

  /** Watch the organisation that the session is in. */
  open() {
    this.close();
    this.#stop = new AbortController();
    watch({
      begin: { type: "subscribe_changes" },
      frame: ({ type, kind, object_id: id, action }) => {
        if (type === "changed") this.dispatchEvent(new CustomEvent("changed", { detail: { kind, id, action } }));
        if (type === "changes_missed") this.dispatchEvent(new Event("missed"));
      },
      signal: this.#stop.signal,
    });
  }

  /** Watch no longer. */
  close() {
    this.#stop?.abort();
  }
}

export const changes = new Changes();

/**
 * Return a signal for what is asked about one thing: aborted with `signal`, and when the thing is deleted.
 *
 * `gone()` is called then: nothing has to be asked to know that.
 */
export function whileThere(kind, id, signal, gone) {
  const there = new AbortController();
  signal.addEventListener("abort", () => there.abort());
  changes.addEventListener("changed", ({ detail }) => {
    if (detail.kind !== kind || detail.id !== id || detail.action !== "deleted") return;
    there.abort();
    gone();
  }, { signal: there.signal });
  return there.signal;
}
