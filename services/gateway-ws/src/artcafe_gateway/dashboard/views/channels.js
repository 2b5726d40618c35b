// All channels.

import { list } from "../api.js";
import { count, number } from "../format.js";
import { poll } from "../polling.js";
import { session } from "../session.js";
import { h, replace } from "../ui/dom.js";
import { keep } from "../ui/keep.js";
import { failed } from "../ui/notice.js";
import { table } from "../ui/table.js";
import { channelDialog } from "./channel_dialog.js";

const SHOWN = 200;
const COLUMNS = [["Channel"], ["Open to"], ["Description", "break"]];

export function channelsView({ signal }) {
  const search = h("input", { type: "search", placeholder: "Search", "aria-label": "Search by name, id or description", autocomplete: "off" });
  const counter = h("p", { class: "hint", role: "status" });
  const body = h("div", { class: "list" }, h("p", { class: "blank" }, "Loading…"));
  const create = h("button", { type: "button", class: "primary" }, "New channel");
  let all = null;
  let more = false;

  const again = poll(() => list("/channels", "channels", { signal }), {
    changed: ({ kind }) => kind === "channel",
    signal,
    show: (found) => {
      all = found.items;
      more = found.more;
      show();
    },
    failed: (error) => all ?? replace(body, h("p", { class: "problem" }, error.message)),
  });

  function show() {
    if (!all) return;
    const wanted = search.value.trim().toLowerCase();
    const found = all.filter((each) => !wanted || [each.channel_id, each.name, each.description].some((text) => text.toLowerCase().includes(wanted)));
    replace(counter, summary(found.length));
    const shown = found.slice(0, SHOWN);
    if (!all.length) keep(body, h("p", { class: "blank" }, "There are no channels yet. Agents publish and subscribe in channels."));
    else if (!found.length) keep(body, h("p", { class: "blank" }, more ? `None of the first ${number(all.length)} channels matches.` : "No channel matches."));
    else keep(body, table("Channels", COLUMNS, shown.map(row), shown.map((each) => each.channel_id)));
  }

  function summary(found) {
    if (!all.length) return "";
    const rest = found > SHOWN
      ? `; the first ${SHOWN} are shown, search for others`
      : found < all.length ? `; ${found} shown` : "";
    return `${more ? `the first ${number(all.length)} channels` : count(all.length, "channel")}${rest}`;
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
    h("div", { class: "toolbar" }, search, counter), body);
}

function row(channel) {
  return [
    h("span", { class: "name" }, h("a", { href: `#/channels/${encodeURIComponent(channel.channel_id)}` }, channel.name), h("code", {}, channel.channel_id)),
    channel.access === "open" ? "every agent" : "its members",
    channel.description || h("span", { class: "hint" }, "none"),
  ];
}
