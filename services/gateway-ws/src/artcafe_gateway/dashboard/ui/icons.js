// The few pictures of the pages, drawn as lines in the colour of the text beside them.

import { svg } from "./dom.js";

const LINES = {
  overview: "M4 13h6V4H4zM14 20h6v-9h-6zM4 20h6v-3H4zM14 7h6V4h-6z",
  agents: "M12 3v4M5 8h14v11H5zM9.5 12.5v2M14.5 12.5v2M2.5 12v3.5M21.5 12v3.5",
  channels: "M5 9h14M5 15h14M10 4 8 20M16 4l-2 16",
  preview: "M2 12s3.5-6 10-6 10 6 10 6-3.5 6-10 6S2 12 2 12zM12 9.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6z",
  usage: "M4 20h16M6.5 16.5v-6M12 16.5V5M17.5 16.5v-4",
  people: "M9 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM2.5 20c.5-4 3-6 6.5-6s6 2 6.5 6M16 4.3a3.5 3.5 0 0 1 0 6.5M18 14.3c2 .8 3.2 2.7 3.5 5.7",
};

/** Return a picture; it says nothing to screen readers, the words beside it do. */
export function icon(name) {
  return svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, svg("path", { d: LINES[name] }));
}
