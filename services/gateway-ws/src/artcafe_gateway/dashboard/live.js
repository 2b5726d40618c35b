// What the page watches over the socket; all of it is asked for again after a break.

import { LiveSocket } from "./socket.js";

export const socket = new LiveSocket();

const watches = new Set();

socket.addEventListener("connected", ({ detail }) => {
  for (const watch of watches) {
    if (detail.lostAt && watch.gap) watch.gap((Date.now() - detail.lostAt) / 1000);
    start(watch);
  }
});
socket.addEventListener("frame", ({ detail: frame }) => {
  for (const watch of watches) watch.frame(frame);
});

/**
 * Watch something until `signal` is aborted.
 *
 * `begin` and `end` are commands; `frame(event)` sees every event, `failed(error)` why a command was refused,
 * `gap(seconds)` that the connection was away for so long. Returns a function that sends another `begin`.
 */
export function watch({ begin, end, frame, failed = () => {}, gap = null, signal }) {
  const entry = { begin, frame, failed, gap };
  watches.add(entry);
  start(entry);
  signal.addEventListener("abort", () => {
    watches.delete(entry);
    if (end) socket.command(end).catch(() => {});
  });
  return (command) => {
    entry.begin = command;
    start(entry);
  };
}

function start(entry) {
  if (!entry.begin || socket.state.name !== "live") return;
  socket.command(entry.begin).catch((error) => {
    // A command that was lost with its connection is sent again with the next one.
    if (socket.state.name === "live") entry.failed(error);
  });
}
