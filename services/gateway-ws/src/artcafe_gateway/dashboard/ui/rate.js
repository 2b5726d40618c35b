// Messages per second, as a figure and a line, which goes on where it was when one comes back to a page.

import { number } from "../format.js";
import { socket } from "../live.js";
import { liveLine } from "./chart.js";
import { h, replace } from "./dom.js";

const POINTS = 90;
// What was left out is told once a second, sometimes twice in one of ours: three make it even.
const EVEN_OVER = 3;
const KEPT = 20;

/** What was counted, by what it was counted of: `{values, at}`, `at` the time of the last value (epoch ms). */
const kept = new Map();

/** Forget what was counted: it is another organisation's. */
export const forgetRates = () => kept.clear();

/**
 * Return `{element, add(count), of(key)}`; what is added is what passed just now, of what `key` says.
 *
 * The line goes on with what was counted of the same before, with a gap for the time between.
 */
export function rateLine(name, key, signal) {
  const rate = h("strong", { class: "big" }, "0 ", h("small", {}, "per second"));
  const drawing = h("div", {});
  const recent = [];
  let counted;
  let line;
  let passed = 0;
  let tickedAt = Date.now();
  const ticking = setInterval(() => {
    // Of a page that nobody looks at the browser lets a minute pass: what came then is that of all its seconds.
    const seconds = Math.min(POINTS, Math.max(1, Math.round((Date.now() - tickedAt) / 1000)));
    tickedAt = Date.now();
    const each = passed / seconds;
    passed = 0;
    if (!socket.hears) {
      replace(rate, "–");
      recent.length = 0;
      if (counted.values.length) for (let nth = 0; nth < seconds; nth += 1) push(null);
      return;
    }
    let shown = 0;
    for (let nth = 0; nth < seconds; nth += 1) {
      recent.push(each);
      if (recent.length > EVEN_OVER) recent.shift();
      const value = recent.reduce((sum, one) => sum + one, 0) / recent.length;
      shown = value >= 10 ? Math.round(value) : Math.round(value * 10) / 10;
      push(shown);
    }
    replace(rate, `${number(shown)} `, h("small", {}, "per second"));
  }, 1000);
  function push(value) {
    counted.at = Date.now();
    line.push(value);
  }
  function of(another) {
    counted = takeUp(another);
    line = liveLine(name, POINTS, counted.values);
    recent.length = passed = 0;
    replace(drawing, line.element);
  }
  of(key);
  signal.addEventListener("abort", () => clearInterval(ticking));
  return {
    element: h("div", { class: "rate" }, h("p", {}, rate), drawing),
    of,
    add: (count) => {
      passed += count;
    },
  };
}

/** Return what was counted of something, up to now: for the seconds that nobody counted, null. */
function takeUp(key) {
  const counted = kept.get(key) ?? { values: [], at: 0 };
  kept.delete(key);
  kept.set(key, counted);
  if (kept.size > KEPT) kept.delete(kept.keys().next().value);
  const missing = counted.values.length ? Math.min(POINTS, Math.max(0, Math.floor((Date.now() - counted.at) / 1000))) : 0;
  counted.values.push(...Array(missing).fill(null));
  counted.values.splice(0, counted.values.length - POINTS);
  return counted;
}
