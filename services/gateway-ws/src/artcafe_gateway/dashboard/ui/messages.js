// A list of live messages: newest first, bounded, with pause and filter; each opens to its data and path.
// Nothing moves while somebody reads: what comes meanwhile is counted, and shown when they ask or have gone.

import { bytes, count, number, time } from "../format.js";
import { copyButton } from "./copy.js";
import { h, replace } from "./dom.js";

const KEEP = 300;
const LINE = 200;

/**
 * Return `{element, listening(), add(message), note(text, level)}`; `empty` is said once it listens.
 *
 * A message is `{id, channel, from, at, data, size?, truncated?, path?}`, `data` the beginning of its text where it is
 * truncated; `withChannel` shows each one's channel, too.
 */
export function messageList({ withChannel = false, empty, signal }) {
  let waiting = [];
  let missed = 0;
  let paused = false;
  let pointed = false;
  let total = 0;
  let filter = "";
  let scheduled = false;

  const list = h("ol", { class: "messages", "aria-label": "Messages, newest first" });
  const blank = h("p", { class: "blank" }, "One moment…");
  const nothing = h("p", { class: "blank", hidden: true }, "Nothing that is shown matches the filter.");
  const counter = h("span", { class: "hint", "aria-live": "off" }, "0 messages");
  const more = h("button", { type: "button", class: "small", hidden: true });
  const pause = h("button", { type: "button", class: "small" }, "Pause");
  const clear = h("button", { type: "button", class: "small" }, "Clear");
  const search = h("input", { type: "search", placeholder: "Filter what is shown", "aria-label": "Filter the messages shown by their text", autocomplete: "off" });
  const element = h("section", { class: "stream", "aria-label": "Live messages" },
    h("div", { class: "toolbar" }, pause, clear, search, h("span", { class: "count" }, counter, more)), blank, nothing, list);

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
  more.addEventListener("click", () => {
    flush();
    list.scrollTop = 0;
    tell();
  });
  list.addEventListener("pointerenter", () => {
    pointed = true;
  });
  list.addEventListener("pointerleave", () => {
    pointed = false;
    schedule();
  });
  // A row that closes ("toggle" does not bubble) and a focus that leaves let the rest in.
  list.addEventListener("toggle", schedule, true);
  list.addEventListener("focusout", schedule);
  search.addEventListener("input", () => {
    filter = search.value.toLowerCase();
    for (const row of list.children) row.hidden = !matches(row);
    tell();
  });

  function matches(row) {
    return !filter || (row.dataset.text ?? "").includes(filter);
  }

  /** Tell whether somebody reads here: then rows stay where they are. */
  function isRead() {
    return list.hasChildNodes() && (pointed || list.querySelector("details[open], :focus-visible") !== null);
  }

  function schedule() {
    if (scheduled) return;
    scheduled = true;
    // Many in one go: at 50 a second the page stays quick.
    setTimeout(() => {
      scheduled = false;
      if (signal.aborted) return;
      if (!paused && !isRead()) flush();
      tell();
    }, 100);
  }

  function flush() {
    const rows = waiting.map((make) => make());
    if (missed) rows.unshift(h("li", { class: "gap warn" }, `${count(missed, "message")} came meanwhile and ${missed === 1 ? "is" : "are"} not kept here.`));
    waiting = [];
    missed = 0;
    if (!rows.length) return;
    for (const row of rows) row.hidden = !matches(row);
    blank.hidden = true;
    list.prepend(...rows.reverse());
    // What somebody has open stays, however old it gets.
    const old = [...list.children].slice(KEEP).filter((row) => !row.querySelector("details[open], :focus"));
    for (const row of old) row.remove();
  }

  function tell() {
    const held = waiting.length + missed;
    nothing.hidden = !list.hasChildNodes() || [...list.children].some((row) => !row.hidden);
    replace(pause, paused ? "Resume" : "Pause");
    more.hidden = paused || held === 0 || !isRead();
    counter.hidden = !more.hidden;
    // A press that has begun ends on the same words.
    const words = `${number(held)} new: show`;
    if (more.firstChild) more.firstChild.data = words;
    else more.append(words);
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
    listening: () => replace(blank, empty),
    add(message) {
      total += 1;
      queue(() => row(message, withChannel));
    },
    note(text, level = "warn") {
      queue(() => h("li", { class: `gap ${level}` }, text));
    },
  };
}

function row(message, withChannel) {
  const text = message.truncated ? message.data : JSON.stringify(message.data) ?? "null";
  const details = h(
    "details",
    {},
    h(
      "summary",
      {},
      h("time", { datetime: message.at, title: message.at }, time(message.at)),
      withChannel && h("span", { class: "channel" }, message.channel),
      h("span", { class: "sender" }, message.from),
      message.truncated && h("span", { class: "tag" }, "cut"),
      h("span", { class: "line" }, text.length > LINE ? `${text.slice(0, LINE)}…` : text),
    ),
  );
  details.addEventListener("toggle", () => details.open && details.append(inside(message)), { once: true });
  return h("li", { "data-text": `${message.channel} ${message.from} ${text}`.toLowerCase() }, details);
}

function inside(message) {
  const pretty = message.truncated ? message.data : JSON.stringify(message.data, null, 2) ?? "null";
  const facts = [["Message", message.id], ["Published", message.at]];
  // In the line above it may be cut.
  if (!message.path) facts.unshift(["From", message.from]);
  if (message.size !== undefined) facts.push(["Size", bytes(message.size)]);
  if (message.path) facts.push(["Kind", message.path.kind]);
  return h(
    "div",
    { class: "inside" },
    message.path && pathOf(message.path),
    h("dl", { class: "facts" }, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    message.truncated && h("p", { class: "hint" }, "Only the beginning of the data is shown here."),
    h("pre", { tabindex: "0", "aria-label": "Data" }, pretty),
    h("p", {}, copyButton(() => pretty, message.truncated ? "Copy what is shown" : "Copy JSON")),
  );
}

/** By REST there is none; of one that has just started the server does not know the name yet. */
const acceptedBy = (gateway) => (gateway === "unknown" ? "a gateway that is not known yet" : gateway ?? "REST");

/** The way a message took: who sent it, through which gateway, on which subject, to here. */
function pathOf(path) {
  const late = new Date(path.forwarded_at) - new Date(path.published_at);
  const steps = [
    ["Publisher", path.publisher],
    ["Accepted by", acceptedBy(path.publisher_gateway)],
    ["Subject in NATS", path.subject],
    ["Gateway of this page", path.gateway],
    ["Forwarded", `${time(path.forwarded_at)}${Number.isFinite(late) ? ` (${late} ms later)` : ""}`],
  ];
  return h("ol", { class: "path", "aria-label": "Path of the message" }, steps.map(([name, value]) =>
    h("li", {}, h("div", {}, h("span", { class: "hint" }, name), h("span", {}, value)))));
}
