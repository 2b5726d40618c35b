// Ask, and ask again: when something has changed, or every few seconds while somebody looks.

import { changes } from "./changes.js";
import { socket } from "./live.js";

const RETRY_SECONDS = 5;
// Changes come in bursts: one question for all of them, and a pause after it, as each counts as a call of the API.
const TOGETHER_MS = 150;
const PAUSE_MS = 1000;

// What is gone, and what cannot be, does not come by asking.
const FINAL = new Set(["not_found", "invalid_argument"]);

/** Tell whether a request fails as long as it is the same. */
export const isFinal = (error) => FINAL.has(error.code);

/**
 * Run `ask()` now, and whenever `changed(change)` says that a change matters, until `signal` is aborted.
 *
 * `show(result)` or `failed(error)` follow. Where nothing tells of changes, every `seconds`, too, which rests while
 * the page is hidden. Asks as well when connection or message bus are back, as nothing was told meanwhile. Each failure doubles
 * the wait. Returns a function that asks now.
 */
export function poll(ask, { seconds = null, changed = null, show, failed = () => {}, signal }) {
  let timer = null;
  let running = false;
  let again = false;
  let failures = 0;
  let due = false;
  let ranAt = 0;

  async function run() {
    clearTimeout(timer);
    due = false;
    if (running) {
      again = true;
      return;
    }
    running = true;
    try {
      const result = await ask();
      failures = 0;
      if (!signal.aborted) show(result);
    } catch (error) {
      failures = isFinal(error) ? 0 : failures + 1;
      if (!signal.aborted) failed(error);
    }
    running = false;
    ranAt = Date.now();
    if (signal.aborted) return;
    const wait = failures ? (seconds ?? RETRY_SECONDS) * Math.min(8, 2 ** failures) : seconds;
    if (again) {
      again = false;
      run();
    } else if (wait && !due && !document.hidden) {
      timer = setTimeout(run, wait * 1000);
    }
  }

  if (changed) {
    const soon = () => {
      if (due) return;
      due = true;
      clearTimeout(timer);
      timer = setTimeout(run, Math.max(TOGETHER_MS, Math.min(PAUSE_MS, ranAt + PAUSE_MS - Date.now())));
    };
    changes.addEventListener("changed", ({ detail }) => changed(detail) && soon(), { signal });
    changes.addEventListener("missed", soon, { signal });
  }
  // What failed while the page was hidden is asked for again when it can be seen.
  document.addEventListener("visibilitychange", () => document.hidden || ((seconds || failures) && run()), { signal });
  socket.addEventListener("connected", run, { signal });
  socket.addEventListener("heard", run, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  run();
  return run;
}
