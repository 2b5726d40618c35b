// Charts as inline SVG: bars over time, a line of the last minutes, and a bar of what is used.

import { h, replace, svg } from "./dom.js";

const HEIGHT = 220;
const LEFT = 48;
const BOTTOM = 24;
const TOP = 12;
const LETTER_WIDTH = 7;
const LABEL_APART = 41;
/** How many series have a colour of their own (style.css). */
export const SERIES = 6;

/**
 * Return a bar chart; `bars` are `{label, title, parts}`, `parts` the values that lie upon each other.
 *
 * `names` are those of the parts, where there are several. `format` writes a value on the axis.
 */
export function barChart({ name, bars, names = [], format }) {
  const drawing = h("div", {});
  const totals = bars.map((bar) => bar.parts.reduce((sum, part) => sum + part, 0));
  const top = niceTop(Math.max(0, ...totals) || 1);
  let drawn = 0;
  // Drawn at the size it is shown in, so that the words stay as large as those around it.
  new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (!width || width === drawn) return;
    drawn = width;
    replace(drawing, svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": name }, grid(width, top, format), columns(width, top, bars)));
  }).observe(drawing);
  return h("div", { class: "chart" }, drawing, names.length > 0 && h("ul", { class: "legend" }, names.map((each, i) => h("li", { class: `series-${i}` }, each))));
}

function grid(width, top, format) {
  return [0, 0.5, 1].map((part) => {
    const y = HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP);
    return [
      svg("line", { x1: LEFT, x2: width, y1: y, y2: y, class: "grid-line" }),
      svg("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, format(part * top)),
    ];
  });
}

function columns(width, top, bars) {
  const step = (width - LEFT) / Math.max(1, bars.length);
  const gap = Math.min(step * 0.24, 12);
  const labelWidth = LETTER_WIDTH * Math.max(0, ...bars.map((bar) => bar.label.length));
  const every = Math.max(1, Math.ceil((labelWidth + LABEL_APART) / step));
  const scale = (HEIGHT - BOTTOM - TOP) / top;
  return bars.map((bar, i) => {
    const x = LEFT + i * step;
    let y = HEIGHT - BOTTOM;
    const parts = bar.parts.map((value, series) => {
      const height = value * scale;
      y -= height;
      return height > 0 && svg("rect", { x: x + gap / 2, y, width: Math.max(1, step - gap), height, rx: Math.min(2, step / 6), class: `series-${series}` });
    });
    return svg(
      "g",
      {},
      parts,
      // The whole column answers to the pointer, so that small bars can be read too.
      svg("rect", { x, y: TOP, width: step, height: HEIGHT - BOTTOM - TOP, class: "touch" }, svg("title", {}, bar.title)),
      // One that would be cut at the edge is left out.
      i % every === 0 && x + step / 2 + labelWidth / 2 <= width && svg("text", { x: x + step / 2, y: HEIGHT - 6, "text-anchor": "middle" }, bar.label),
    );
  });
}

/**
 * Return `{element, push(value)}`: a line of the last `size` values, one a second; null is a second nobody counted.
 *
 * `values` are those there are already; what is pushed is put into them.
 */
export function liveLine(name, size, values = []) {
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const label = svg("title", {});
  const most = h("span", {}, "0");
  const element = h("div", { class: "live-line" },
    most,
    svg("svg", { viewBox: "0 0 240 56", preserveAspectRatio: "none", role: "img", "aria-label": name }, label, area, line),
    h("span", {}, `${size} s ago`), h("span", {}, "now"));

  function draw() {
    const top = niceTop(Math.max(1, ...values));
    const runs = runsOf(values.map((each, i) => each !== null && [(240 * (size - values.length + i)) / (size - 1), 55 - (54 * each) / top]));
    line.setAttribute("d", runs.map((points) => `M${points.join("L")}`).join(""));
    area.setAttribute("d", runs.map((points) => `M${points[0][0]},56L${points.join("L")}L${points.at(-1)[0]},56Z`).join(""));
    replace(most, String(top));
    replace(label, `${name}: ${values.at(-1) ?? "unknown"}`);
  }

  if (values.length) draw();
  return {
    element,
    push(value) {
      values.push(value);
      if (values.length > size) values.shift();
      draw();
    },
  };
}

/** Return the stretches of a list between what is false. */
function runsOf(list) {
  const runs = [[]];
  for (const each of list) {
    if (each) runs.at(-1).push(each);
    else if (runs.at(-1).length) runs.push([]);
  }
  return runs.filter((run) => run.length);
}

/** Return small bars without words; `name` says what they show. */
export function smallBars(name, values) {
  const top = Math.max(1, ...values);
  return svg("svg", { viewBox: `0 0 ${values.length * 10} 40`, preserveAspectRatio: "none", class: "small-bars", role: "img", "aria-label": name },
    values.map((value, i) => svg("rect", { x: i * 10 + 1.5, width: 7, y: 40 - Math.max(1, (39 * value) / top), height: Math.max(1, (39 * value) / top), class: value ? "series-0" : "track" })));
}

/** Return a bar of what is used of a limit; null is unlimited. */
export function meter(label, used, limit, format) {
  const part = limit === null || limit === undefined ? null : limit === 0 ? 1 : used / limit;
  const level = part === null ? "" : part >= 1 ? "full" : part >= 0.8 ? "high" : "";
  const words = part === null ? `${format(used)} of unlimited` : `${format(used)} of ${format(limit)}`;
  return h(
    "div",
    { class: `meter ${level}` },
    h("div", {}, h("span", {}, label), h("span", { class: "figure" }, words, part !== null && h("span", { class: "hint" }, ` ${percent(part)}`))),
    part !== null && svg("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { width: 100, height: 6, rx: 0, class: "track" }),
      svg("rect", { width: Math.min(100, part * 100), height: 6, class: "fill" })),
  );
}

function percent(part) {
  const value = part * 100;
  return value > 0 && value < 1 ? "under 1 %" : `${Math.floor(value)} %`;
}

/** The next of 2, 4, 10, 20, 40, 100... that is not less: half of it is whole, too; below 1 it is 0.2, 0.4, 0.04... */
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [2, 4, 10].map((each) => each * power).find((each) => each >= value);
}
