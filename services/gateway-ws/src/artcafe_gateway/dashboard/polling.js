// Ask again every few seconds, while somebody looks.

import { socket } from "./live.js";

/**
 * Run `ask()` now and then every `seconds`, until `signal` is aborted; `show(result)` or `failed(error)` follow.
 *
 * Rests while the page is hidden; asks at once when it is shown again and when the connection is back. Each
 * failure doubles the wait. Returns a function that asks now.
 */
export function poll(ask, { seconds, show, failed = () => {}, signal }) {
  let timer = null;
  let running = false;
  let again = false;
  let failures = 0;

  async function run() {
    clearTimeout(timer);
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
      failures += 1;
      if (!signal.aborted) failed(error);
    }
    running = false;
    if (signal.aborted) return;
    if (again) {
      again = false;
      run();
    } else if (!document.hidden) {
      timer = setTimeout(run, seconds * 1000 * Math.min(8, 2 ** failures));
    }
  }

  document.addEventListener("visibilitychange", () => document.hidden || run(), { signal });
  socket.addEventListener("connected", run, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  run();
  return run;
}
