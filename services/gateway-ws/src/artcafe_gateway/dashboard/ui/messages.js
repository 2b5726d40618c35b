// A list of live messages: newest first, bounded, with pause and filter; each opens to its data and path.

import { number, time, bytes } from "../format.js";
import { copyButton } from "./copy.js";
import { h, replace } from "./dom.js";

const KEEP = 300;
const LINE = 200;

/**
 * Return `{element, add(message), note(text)}`.
 *
 * A message is `{id, channel, from, at, data, size?, path?}`; `withChannel` shows each one's channel, too.
 */
export function messageList({ withChannel = false, empty, signal }) {
  let waiting = [];
  let missed = 0;
  let paused = false;
  let total = 0;
  let filter = "";
  let scheduled = false;

  const list = h("ol", { class: "messages", "aria-label": "Messages, newest first" });
  const blank = h("p", { class: "blank" }, empty);
  const counter = h("span", { class: "hint", "aria-live": "off" }, "0 messages");
  const pause = h("button", { type: "button", class: "small" }, "Pause");
  const clear = h("button", { type: "button", class: "small" }, "Clear");
  const search = h("input", { type: "search", placeholder: "Filter what is shown", "aria-label": "Filter the messages shown by their text", autocomplete: "off" });
  const element = h("section", { class: "stream", "aria-label": "Live messages" },
    h("div", { class: "toolbar" }, pause, clear, search, counter), blank, list);

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.classList.toggle("on", paused);
    if (!paused) flush();
    tell();
  });
  clear.addEventListener("click", () => {
    replace(list);
    waiting = [];
    missed = total = 0;
    blank.hidden = false;
    tell();
  });
  search.addEventListener("input", () => {
    filter = search.value.toLowerCase();
    for (const row of list.children) row.hidden = !matches(row);
  });

  function matches(row) {
    return !filter || (row.dataset.text ?? "").includes(filter);
  }

  function schedule() {
    if (scheduled) return;
    scheduled = true;
    // Many in one go: at 50 a second the page stays quick.
    setTimeout(() => {
      scheduled = false;
      if (signal.aborted) return;
      if (!paused) flush();
      tell();
    }, 100);
  }

  function flush() {
    const rows = waiting.map((make) => make());
    waiting = [];
    missed = 0;
    if (!rows.length) return;
    for (const row of rows) row.hidden = !matches(row);
    blank.hidden = true;
    list.prepend(...rows.reverse());
    while (list.children.length > KEEP) list.lastElementChild.remove();
  }

  function tell() {
    const held = waiting.length + missed;
    replace(pause, paused ? "Resume" : "Pause");
    replace(counter, paused && held ? `paused, ${number(held)} more` : `${number(total)} ${total === 1 ? "message" : "messages"}`);
  }

  function queue(make) {
    waiting.push(make);
    if (waiting.length > KEEP) {
      waiting.shift();
      missed += 1;
    }
    schedule();
  }

  return {
    element,
    add(message) {
      total += 1;
      queue(() => row(message, withChannel));
    },
    note(text) {
      queue(() => h("li", { class: "gap" }, text));
    },
  };
}

function row(message, withChannel) {
  const text = JSON.stringify(message.data) ?? "null";
  const details = h(
    "details",
    {},
    h(
      "summary",
      {},
      h("time", { datetime: message.at, title: message.at }, time(message.at)),
      withChannel && h("span", { class: "channel" }, message.channel),
      h("span", { class: "sender" }, message.from),
      h("span", { class: "line" }, text.length > LINE ? `${text.slice(0, LINE)}…` : text),
    ),
  );
  details.addEventListener("toggle", () => details.open && details.append(inside(message)), { once: true });
  return h("li", { "data-text": `${message.channel} ${message.from} ${text}`.toLowerCase() }, details);
}

function inside(message) {
  const pretty = JSON.stringify(message.data, null, 2) ?? "null";
  const facts = [["Message", message.id], ["Published", message.at]];
  if (message.size !== undefined) facts.push(["Size", bytes(message.size)]);
  return h(
    "div",
    { class: "inside" },
    message.path && pathOf(message.path),
    h("dl", { class: "facts" }, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h("pre", { tabindex: "0", "aria-label": "Data" }, pretty),
    h("p", {}, copyButton(() => pretty, "Copy JSON")),
  );
}

/** The way a message took: who sent it, through which gateway, on which subject, to here. */
function pathOf(path) {
  const late = new Date(path.forwarded_at) - new Date(path.published_at);
  const steps = [
    ["Publisher", path.publisher],
    path.publisher_gateway && ["Its gateway", path.publisher_gateway],
    ["Subject", path.subject],
    ["Gateway of this page", path.gateway],
    ["Forwarded", `${time(path.forwarded_at)}${Number.isFinite(late) ? ` (${late} ms later)` : ""}`],
  ].filter(Boolean);
  return h("ol", { class: "path", "aria-label": "Path of the message" }, steps.map(([name, value]) =>
    h("li", {}, h("span", { class: "hint" }, name), h("span", {}, value))));
}
