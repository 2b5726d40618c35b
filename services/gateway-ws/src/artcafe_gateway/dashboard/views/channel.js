// One channel: live messages, publishing, members.

import { get, list, path, remove } from "../api.js";
import { socket, watch } from "../live.js";
import { poll } from "../polling.js";
import { session } from "../session.js";
import { h, replace } from "../ui/dom.js";
import { confirm, field } from "../ui/form.js";
import { messageList } from "../ui/messages.js";
import { notice } from "../ui/notice.js";
import { table } from "../ui/table.js";
import { channelDialog } from "./channel_dialog.js";
import { grantDialog, ROLES } from "./grant_dialog.js";

const SECONDS = 20;

export function channelView({ params, signal }) {
  const address = path`/channels/${params.id}`;
  const heading = h("h1", {}, params.id);
  const about = h("p", { class: "lead" });
  const members = h("div", {}, "Loading…");
  const edit = h("button", { type: "button" }, "Edit");
  const drop = h("button", { type: "button", class: "danger quiet" }, "Delete");
  const add = h("button", { type: "button", class: "small" }, "Add member");
  const mayWrite = session.may("channels:write");
  let channel = null;

  const again = poll(() => get(address, { signal }), { seconds: SECONDS, signal, show, failed: missing });
  const againMembers = poll(() => list(`${address}/members`, "members", { signal }), { seconds: SECONDS, signal, show: showMembers, failed: (error) => replace(members, error.message) });

  function show(found) {
    channel = found;
    replace(heading, channel.name);
    replace(about, h("code", {}, channel.channel_id), " · ", channel.access === "open" ? "open to every agent" : "for members only", channel.description && ` · ${channel.description}`);
  }

  function missing(error) {
    if (error.code === "not_found") replace(about, h("span", { class: "problem" }, "There is no such channel (any more). "), h("a", { href: "#/channels" }, "All channels"));
  }

  function showMembers({ items, more }) {
    if (!items.length) {
      replace(members, h("p", { class: "hint" }, channel?.access === "members" ? "No members: no agent may use this channel." : "No rows: every agent may read and publish here."));
      return;
    }
    replace(members, table("Members", [["Agent"], ["May"], ["Subscribes by itself"], ["", "right"]], items.map((row) => [
      h("a", { href: `#/agents/${encodeURIComponent(row.agent_id)}` }, row.agent_id),
      ROLES[row.role],
      row.auto_subscribe ? "yes" : "no",
      mayWrite && h("button", { type: "button", class: "small", "aria-label": `Change what ${row.agent_id} may do`, onclick: () => grant(row) }, "Change"),
    ])), more && h("p", { class: "hint" }, "There are more than can be shown here."));
  }

  async function grant(row) {
    if (await grantDialog({ agentId: row?.agent_id, channelId: params.id, row })) againMembers();
  }

  add.addEventListener("click", () => grant(null));
  edit.addEventListener("click", async () => {
    if (channel && (await channelDialog(channel))) again();
  });
  drop.addEventListener("click", async () => {
    const text = "Agents that use it are told and can publish no more. This cannot be undone.";
    if (await confirm(`Delete the channel ${params.id}?`, text, "Delete channel", () => remove(address))) location.hash = "#/channels";
  });

  return h("article", {},
    h("p", { class: "back" }, h("a", { href: "#/channels" }, "← Channels")),
    h("div", { class: "title" }, heading, mayWrite && h("span", { class: "actions" }, edit, drop)),
    about,
    h("div", { class: "split" },
      session.may("messages:read") && h("section", { class: "card" }, h("h2", {}, "Messages, live"), stream(params.id, signal)),
      h("div", {},
        session.may("messages:publish") && h("section", { class: "card" }, h("h2", {}, "Publish"), publisher(params.id)),
        h("section", { class: "card" }, h("div", { class: "title" }, h("h2", {}, "Members"), mayWrite && add), members))));
}

function stream(channelId, signal) {
  const state = h("p", { class: "problem" });
  const messages = messageList({ empty: "Waiting for messages. Only what is published from now on is shown.", signal });
  watch({
    begin: { type: "subscribe_channel", channel_id: channelId },
    end: { type: "unsubscribe_channel", channel_id: channelId },
    frame: (frame) => {
      if (frame.channel_id !== channelId) return;
      if (frame.type === "subscription_confirmed") replace(state);
      if (frame.type === "dropped") messages.note(`${frame.count} messages were left out: this browser did not keep up.`);
      if (frame.type === "channel_message") {
        messages.add({ id: frame.message_id, channel: channelId, from: frame.from, at: frame.timestamp, data: frame.data });
      }
    },
    failed: (error) => replace(state, error.message),
    gap: (seconds) => messages.note(`The connection was away for ${Math.ceil(seconds)} s: messages of that time are not shown.`),
    signal,
  });
  return h("div", {}, state, messages.element);
}

function publisher(channelId) {
  const text = h("textarea", { rows: 5, spellcheck: "false", required: true });
  text.value = '{"text": "hello"}';
  const problem = h("p", { class: "problem", role: "alert" });
  const button = h("button", { type: "submit", class: "primary" }, "Publish");
  const form = h("form", { class: "form" }, field("Message", text, "Any JSON. Ctrl+Enter publishes."), problem, h("div", { class: "actions" }, button));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    button.disabled = true;
    replace(problem);
    try {
      const data = parse(text.value);
      await socket.command({ type: "publish_channel", channel_id: channelId, data });
      notice("Published", "good");
    } catch (error) {
      replace(problem, error.message);
    } finally {
      button.disabled = false;
    }
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  return form;
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`That is not JSON: ${error.message}`);
  }
}
