// What the page watches over the socket; all of it is asked for again after a break.

import { LiveSocket } from "./socket.js";

export const socket = new LiveSocket();

// What is refused for these is asked for again.
const PASSING = new Set(["unavailable", "deadline_exceeded"]);
const AGAIN_SECONDS = 2;
const SILENT = "No message comes through: the message bus is away.";

const watches = new Set();

socket.addEventListener("connected", ({ detail }) => {
  for (const watch of watches) {
    if (detail.lostAt) watch.gap(away("connection", (Date.now() - detail.lostAt) / 1000));
    start(watch);
  }
});
socket.addEventListener("silent", () => tellAll(SILENT));
socket.addEventListener("heard", ({ detail }) => tellAll(away("message bus", detail.seconds)));
socket.addEventListener("frame", ({ detail: frame }) => {
  for (const watch of watches) watch.frame(frame);
});

/**
 * Watch something until `signal` is aborted.
 *
 * `begin` and `end` are commands; `frame(event)` sees every event, `begun(answer)` what `begin` was answered with, before
 * what follows it, `failed(error)` why it was refused, `gap(text)` that messages do not come through, or did not for some
 * time. Returns a function that sends another `begin`.
 */
export function watch({ begin, end, frame, begun = () => {}, failed = () => {}, gap = () => {}, signal }) {
  const entry = { begin, frame, begun, failed, gap };
  watches.add(entry);
  start(entry);
  signal.addEventListener("abort", () => {
    watches.delete(entry);
    clearTimeout(entry.again);
    if (end) socket.command(end).catch(() => {});
  });
  return (command) => {
    entry.begin = command;
    start(entry);
  };
}

const away = (what, seconds) => `The ${what} was away for ${Math.ceil(seconds)} s: messages of that time are not shown.`;

function tellAll(text) {
  for (const watch of watches) watch.gap(text);
}

function start(entry) {
  clearTimeout(entry.again);
  if (!entry.begin || socket.state.name !== "live") return;
  if (!socket.hears) entry.gap(SILENT);
  const { begin } = entry;
  socket.command(begin).then((answer) => {
    if (watches.has(entry) && entry.begin === begin) entry.begun(answer);
  }, (error) => {
    // A command that was lost with its connection is sent again with the next one.
    if (socket.state.name !== "live" || !watches.has(entry)) return;
    entry.failed(error);
    if (PASSING.has(error.code)) entry.again = setTimeout(() => start(entry), AGAIN_SECONDS * 1000);
  });
}
