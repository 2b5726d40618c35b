// Charts as inline SVG: bars over time, and a line of the last minutes.

import { h, replace, svg } from "./dom.js";

const WIDE = 720;
const NARROW = 340;
const HEIGHT = 200;
const LEFT = 52;
const BOTTOM = 22;
const TOP = 10;

/** Return a bar chart; `bars` are `{label, value, title}`, `format` writes a value on the axis. */
export function barChart(name, bars, format) {
  // Drawn at the size it is shown in, so that the words stay readable.
  const width = matchMedia("(max-width: 46rem)").matches ? NARROW : WIDE;
  const top = niceTop(Math.max(1, ...bars.map((bar) => bar.value)));
  const step = (width - LEFT) / Math.max(1, bars.length);
  const scale = (HEIGHT - BOTTOM - TOP) / top;
  const every = Math.ceil(bars.length / (width / 90));
  const lines = [0, 0.5, 1].map((part) => {
    const y = HEIGHT - BOTTOM - part * top * scale;
    return [
      svg("line", { x1: LEFT, x2: width, y1: y, y2: y, class: "grid" }),
      svg("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, format(part * top)),
    ];
  });
  const drawn = bars.map((bar, i) => {
    const height = bar.value * scale;
    const x = LEFT + i * step;
    return svg(
      "g",
      {},
      svg("rect", { x: x + step * 0.12, y: HEIGHT - BOTTOM - height, width: step * 0.76, height, rx: Math.min(3, step / 6), class: "bar" }),
      // The whole column answers to the pointer, so that small bars can be read too.
      svg("rect", { x, y: TOP, width: step, height: HEIGHT - BOTTOM - TOP, class: "touch" }, svg("title", {}, bar.title)),
      i % every === 0 && svg("text", { x: x + step / 2, y: HEIGHT - 6, "text-anchor": "middle" }, bar.label),
    );
  });
  return h("div", { class: "chart" }, svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": name }, lines, drawn));
}

/** Return `{element, push(value)}`: a line of the last `size` values. */
export function sparkline(name, size) {
  const values = [];
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const label = svg("title", {});
  const element = svg("svg", { viewBox: "0 0 240 56", preserveAspectRatio: "none", class: "spark", role: "img", "aria-label": name }, label, area, line);
  return {
    element,
    push(value) {
      values.push(value);
      if (values.length > size) values.shift();
      const top = Math.max(1, ...values);
      const points = values.map((each, i) => `${(240 * (size - values.length + i)) / (size - 1)},${54 - (50 * each) / top}`);
      line.setAttribute("d", `M${points.join("L")}`);
      const first = points[0].split(",")[0];
      area.setAttribute("d", `M${first},56L${points.join("L")}L240,56Z`);
      replace(label, `${name}: ${value}`);
    },
  };
}

/** Return a bar of what is used of a limit; null is unlimited. */
export function meter(label, used, limit, format) {
  const part = limit === null || limit === undefined ? null : limit === 0 ? 1 : used / limit;
  const level = part === null ? "" : part >= 1 ? "full" : part >= 0.8 ? "high" : "";
  const words = part === null ? `${format(used)} of unlimited` : `${format(used)} of ${format(limit)}`;
  return h(
    "div",
    { class: `meter ${level}` },
    h("div", {}, h("span", {}, label), h("span", { class: "figure" }, words, part !== null && h("span", { class: "hint" }, ` ${Math.round(part * 100)} %`))),
    part !== null && svg("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { width: 100, height: 6, rx: 0, class: "track" }),
      svg("rect", { width: Math.min(100, part * 100), height: 6, class: "fill" })),
  );
}

/** The next of 1, 2, 5, 10, 20, 50... that is not less. */
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value);
}
