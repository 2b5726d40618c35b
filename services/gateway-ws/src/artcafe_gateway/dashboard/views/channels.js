// All channels.

import { list } from "../api.js";
import { count } from "../format.js";
import { poll } from "../polling.js";
import { session } from "../session.js";
import { h, replace } from "../ui/dom.js";
import { failed } from "../ui/notice.js";
import { table } from "../ui/table.js";
import { channelDialog } from "./channel_dialog.js";

const SECONDS = 15;
const SHOWN = 200;
const COLUMNS = [["Channel"], ["Open to"], ["Description"]];

export function channelsView({ signal }) {
  const search = h("input", { type: "search", placeholder: "Search", "aria-label": "Search by name, id or description", autocomplete: "off" });
  const counter = h("p", { class: "hint", role: "status" });
  const body = h("div", {}, h("p", { class: "blank" }, "Loading…"));
  const create = h("button", { type: "button", class: "primary" }, "New channel");
  let all = null;
  let more = false;

  const again = poll(() => list("/channels", "channels", { signal }), {
    seconds: SECONDS,
    signal,
    show: (found) => {
      all = found.items;
      more = found.more;
      show();
    },
    failed: (error) => all ?? replace(body, h("p", { class: "problem" }, error.message)),
  });

  let written = "";
  function show() {
    if (!all) return;
    const wanted = search.value.trim().toLowerCase();
    const found = all.filter((each) => !wanted || [each.channel_id, each.name, each.description].some((text) => text.toLowerCase().includes(wanted)));
    replace(counter, all.length ? `${count(all.length, "channel")}${more ? " (there are more)" : ""}${found.length < all.length ? `; ${found.length} shown` : ""}` : "");
    const text = JSON.stringify([found, all.length]);
    if (text === written) return;
    written = text;
    if (!all.length) replace(body, h("p", { class: "blank" }, "There are no channels yet. Agents publish and subscribe in channels."));
    else if (!found.length) replace(body, h("p", { class: "blank" }, "No channel matches."));
    else replace(body, table("Channels", COLUMNS, found.slice(0, SHOWN).map(row)));
  }

  search.addEventListener("input", show);
  create.addEventListener("click", async () => {
    try {
      const made = await channelDialog();
      if (made) location.hash = `#/channels/${encodeURIComponent(made.channel_id)}`;
    } catch (error) {
      failed("Making a channel", error);
    }
    again();
  });
  return h("section", {},
    h("div", { class: "title" }, h("h1", {}, "Channels"), session.may("channels:write") && create),
    h("div", { class: "toolbar" }, search), counter, body);
}

function row(channel) {
  return [
    h("span", { class: "name" }, h("a", { href: `#/channels/${encodeURIComponent(channel.channel_id)}` }, channel.name), h("code", {}, channel.channel_id)),
    channel.access === "open" ? "every agent" : "its members",
    channel.description || h("span", { class: "hint" }, "none"),
  ];
}
