// One channel: live messages, publishing, members.

import { get, list, path, remove } from "../api.js";
import { whileThere } from "../changes.js";
import { parse } from "../exact.js";
import { socket, watch } from "../live.js";
import { isFinal, poll } from "../polling.js";
import { session } from "../session.js";
import { h, replace } from "../ui/dom.js";
import { confirm, field } from "../ui/form.js";
import { keep } from "../ui/keep.js";
import { messageList } from "../ui/messages.js";
import { notice } from "../ui/notice.js";
import { rateLine } from "../ui/rate.js";
import { table } from "../ui/table.js";
import { channelDialog } from "./channel_dialog.js";
import { grantDialog, ROLES } from "./grant_dialog.js";
import { listenersOf } from "./listening.js";

export function channelView({ params, signal }) {
  const address = path`/channels/${params.id}`;
  const heading = h("h1", {}, params.id);
  // The line is there from the first, so that nothing below it moves when the rest comes.
  const about = h("p", { class: "lead" }, h("code", {}, params.id));
  const problem = h("p", { class: "problem" });
  const members = h("div", {}, "Loading…");
  const edit = h("button", { type: "button" }, "Edit");
  const drop = h("button", { type: "button", class: "danger quiet" }, "Delete");
  const add = h("button", { type: "button", class: "small" }, "Add member");
  const mayWrite = session.may("channels:write");
  const rate = rateLine("Messages per second in this channel", `channel ${params.id}`, signal);
  const actions = h("span", { class: "actions" }, mayWrite && [edit, drop]);
  const body = h("div", { class: "split" },
    session.may("messages:read") && h("section", { class: "card" }, h("h2", {}, "Messages, live"), stream(params.id, rate, signal)),
    h("div", {},
      session.may("messages:read") && h("section", { class: "card", "aria-label": "Messages now" }, h("h2", {}, "Messages now"), rate.element),
      session.may("messages:publish") && h("section", { class: "card" }, h("h2", {}, "Publish"), publisher(params.id)),
      session.may("agents:read") && h("section", { class: "card", "aria-label": "Listening now" }, h("h2", {}, "Listening now"), listenersOf(params.id, signal)),
      h("section", { class: "card" }, h("div", { class: "title" }, h("h2", {}, "Members"), mayWrite && add), members)));
  let channel = null;
  let rows = new Map();

  const there = whileThere("channel", params.id, signal, missing);
  const again = poll(() => get(address, { signal: there }), { changed: ({ kind, id }) => kind === "channel" && id === params.id, signal: there, show, failed: unread });
  const againMembers = poll(() => list(`${address}/members`, "members", { signal: there }), { changed: ({ kind }) => kind === "grants", signal: there, show: showMembers, failed: (error) => replace(members, error.message) });

  function show(found) {
    channel = found;
    replace(heading, channel.name);
    replace(problem);
    body.hidden = actions.hidden = false;
    replace(about, h("code", {}, channel.channel_id), " · ", channel.access === "open" ? "open to every agent" : "for members only", channel.description && ` · ${channel.description}`);
  }

  function unread(error) {
    if (isFinal(error)) missing();
    else replace(problem, `Cannot be read right now: ${error.message}`);
  }

  function missing() {
    replace(problem);
    replace(about, h("span", { class: "problem" }, "There is no such channel (any more). "), h("a", { href: "#/channels" }, "All channels"));
    body.hidden = actions.hidden = true;
  }

  function showMembers({ items, more }) {
    rows = new Map(items.map((row) => [row.agent_id, row]));
    if (!items.length) {
      keep(members, h("p", { class: "hint" }, channel?.access === "members" ? "No members: no agent may use this channel." : "No special rights: every agent may read and publish here."));
      return;
    }
    keep(members, table("Members", [["Agent"], ["May"], ["Subscribes by itself"], ["", "right"]], items.map((row) => [
      h("a", { href: `#/agents/${encodeURIComponent(row.agent_id)}` }, row.agent_id),
      ROLES[row.role],
      row.auto_subscribe ? "yes" : "no",
      mayWrite && h("button", { type: "button", class: "small", "aria-label": `Change what ${row.agent_id} may do`, onclick: () => grant(rows.get(row.agent_id)) }, "Change"),
    ]), items.map((row) => row.agent_id)), more && h("p", { class: "hint" }, "There are more than can be shown here."));
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
    h("div", { class: "title" }, heading, actions),
    about, problem, body);
}

function stream(channelId, rate, signal) {
  const state = h("p", { class: "problem" });
  const messages = messageList({ empty: "Waiting for messages. Only what is published from now on is shown.", signal });
  watch({
    begin: { type: "subscribe_channel", channel_id: channelId },
    end: { type: "unsubscribe_channel", channel_id: channelId },
    frame: (frame) => {
      if (frame.channel_id !== channelId) return;
      if (frame.type === "subscription_confirmed") {
        replace(state);
        messages.listening();
      }
      if (frame.type === "dropped") {
        rate.add(frame.count);
        messages.note(`${frame.count} messages were left out: this browser did not keep up.`);
      }
      if (frame.type === "channel_message") {
        rate.add(1);
        messages.add({ id: frame.message_id, channel: channelId, from: frame.from, at: frame.timestamp, data: frame.data });
      }
    },
    failed: (error) => replace(state, error.message),
    gap: (text) => messages.note(text),
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
      const data = read(text.value);
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

function read(text) {
  try {
    return parse(text);
  } catch (error) {
    throw new Error(`That is not JSON: ${error.message}`);
  }
}
