// One agent: how it is, its keys, what it may do, what it used.

import { agents, isLost } from "../agents.js";
import { get, path, put, remove } from "../api.js";
import { whileThere } from "../changes.js";
import { bytes, hours, moment, number } from "../format.js";
import { isFinal, poll } from "../polling.js";
import { session } from "../session.js";
import { h, replace } from "../ui/dom.js";
import { confirm, dialog, field, form, input } from "../ui/form.js";
import { keep } from "../ui/keep.js";
import { failed, notice } from "../ui/notice.js";
import { statusBadge } from "../ui/status.js";
import { table } from "../ui/table.js";
import { addKey, showPrivateKey, words } from "./agent_dialogs.js";
import { connectedFor, lastHeard } from "./agents.js";
import { grantDialog, ROLES } from "./grant_dialog.js";
import { agentChannels } from "./listening.js";
import { startLines } from "./start_lines.js";

const USAGE_SECONDS = 20;
const KEYS_MAX = 5;

export function agentView({ params, signal }) {
  const heading = h("h1", {}, agents.all.get(params.id)?.name ?? params.id);
  const badge = h("span", {});
  const facts = h("div", {});
  const keys = h("div", {}, "Loading…");
  const grants = h("div", {}, "Loading…");
  const usage = h("div", {}, "Loading…");
  const start = h("details", { class: "fold" }, h("summary", {}, "Lines to start this agent"), startLines(params.id));
  const edit = h("button", { type: "button" }, "Edit");
  const drop = h("button", { type: "button", class: "danger quiet" }, "Delete");
  const newKey = h("button", { type: "button", class: "small" }, "Add key");
  const newGrant = h("button", { type: "button", class: "small" }, "Add to a channel");
  const mayWrite = session.may("agents:write");
  const address = path`/agents/${params.id}`;
  const gone = h("p", { class: "problem" });
  const actions = h("span", { class: "actions" }, mayWrite && [edit, drop]);
  const body = h("div", { class: "halves" },
    h("div", {},
      h("section", { class: "card" }, h("h2", {}, "About"), facts),
      session.may("usage:read") && h("section", { class: "card" }, h("h2", {}, "Usage, last 30 days"), usage)),
    h("div", {},
      h("section", { class: "card" }, h("div", { class: "title" }, h("h2", {}, "Keys"), mayWrite && newKey), keys),
      session.may("channels:read") && h("section", { class: "card" }, h("div", { class: "title" }, h("h2", {}, "Channels"), session.may("channels:write") && newGrant), agentChannels(params.id, signal), h("h3", {}, "Special rights"), grants)));
  let agent = null;
  let granted = new Map();

  const there = whileThere("agent", params.id, signal, missing);
  const isThis = (kind) => (change) => change.kind === kind && change.id === params.id;
  const again = poll(() => get(address, { signal: there }), { changed: isThis("agent"), signal: there, show, failed: unread });
  const againGrants = session.may("channels:read")
    ? poll(() => get(`${address}/channels`, { signal: there }), { changed: isThis("grants"), signal: there, show: showGrants, failed: (error) => replace(grants, error.message) })
    : null;
  if (session.may("usage:read")) {
    const query = { granularity: "day", group_by: "agent" };
    poll(() => get("/usage/metrics", { query, signal }), { seconds: USAGE_SECONDS, signal, show: (reply) => keep(usage, used(reply, params.id)), failed: (error) => replace(usage, error.message) });
  }

  function show(found) {
    agent = found;
    replace(heading, agent.name);
    replace(gone);
    body.hidden = start.hidden = actions.hidden = false;
    live();
    keep(keys, keysTable(agent.keys, mayWrite, revoke));
    newKey.disabled = agent.keys.length >= KEYS_MAX;
  }

  function live() {
    const now = agents.all.get(params.id);
    const status = now?.status ?? agent?.status;
    if (!status) return;
    const shown = now ?? { status, lastSeen: agent.last_seen, connectedAt: agent.connected_at, reason: agent.reason, capabilities: agent.capabilities };
    keep(badge, statusBadge(status, isLost(shown) ? "lost" : undefined));
    const rows = [
      ["Id", h("code", {}, params.id)],
      ["Last heard of", h("span", {}, lastHeard(shown), status !== "online" && shown.reason && ` (${shown.reason})`)],
      shown.connectedAt && ["Connected for", connectedFor(shown)],
      ["Capabilities", shown.capabilities.length ? h("span", { class: "tags" }, shown.capabilities.map((each) => h("span", { class: "tag" }, each))) : "none stated"],
    ];
    if (agent) {
      rows.push(["Created", moment(agent.created_at)]);
      if (agent.type) rows.push(["Type", agent.type]);
      if (agent.description) rows.push(["Description", agent.description]);
      if (Object.keys(agent.metadata).length) rows.push(["Metadata", h("code", {}, JSON.stringify(agent.metadata))]);
    }
    keep(facts, h("dl", { class: "facts" }, rows.filter(Boolean).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
  }

  function unread(error) {
    if (isFinal(error)) missing();
    else {
      replace(gone, `Cannot be read right now: ${error.message}`);
      if (!agent) replace(keys, "not known");
    }
  }

  function missing() {
    replace(badge);
    replace(gone, "There is no such agent (any more). ", h("a", { href: "#/agents" }, "All agents"));
    body.hidden = start.hidden = actions.hidden = true;
  }

  function showGrants({ members: rows }) {
    granted = new Map(rows.map((row) => [row.channel_id, row]));
    keep(grants, rows.length
      ? table("Special rights of this agent", [["Channel"], ["May"], ["Subscribes by itself"], ["", "right"]], rows.map((row) => [
        h("a", { href: `#/channels/${encodeURIComponent(row.channel_id)}` }, row.channel_id),
        ROLES[row.role],
        row.auto_subscribe ? "yes" : "no",
        session.may("channels:write") && h("button", { type: "button", class: "small", "aria-label": `Change what it may do in ${row.channel_id}`, onclick: () => grant(granted.get(row.channel_id)) }, "Change"),
      ]), rows.map((row) => row.channel_id))
      : h("p", { class: "hint" }, "No special rights: it may use every open channel, and none that is for members only."));
  }

  async function grant(row) {
    if (await grantDialog({ agentId: params.id, channelId: row?.channel_id, row })) againGrants();
  }

  async function revoke(key) {
    const text = `Programs that use ${key.fingerprint} are disconnected at once and cannot come back with it.`;
    if (await confirm("Revoke this key?", text, "Revoke", () => remove(`${address}/keys`, { query: { fingerprint: key.fingerprint } }))) {
      notice("The key is revoked", "good");
      again();
    }
  }

  newKey.addEventListener("click", async () => {
    const added = await addKey(params.id);
    if (!added) return;
    again();
    if (added.private_key) await showPrivateKey(params.id, added.private_key);
  });
  newGrant.addEventListener("click", () => grant(null).catch((error) => failed("Channels", error)));
  edit.addEventListener("click", async () => {
    if (agent && (await editAgent(agent, address))) again();
  });
  drop.addEventListener("click", async () => {
    const text = `${params.id} is disconnected at once; its keys and its special rights are removed. This cannot be undone.`;
    if (await confirm(`Delete ${heading.textContent}?`, text, "Delete agent", () => remove(address))) {
      location.hash = "#/agents";
    }
  });
  agents.addEventListener("changed", live, { signal });
  live();

  return h("article", {},
    h("p", { class: "back" }, h("a", { href: "#/agents" }, "← Agents")),
    h("div", { class: "title" }, heading, badge, actions),
    gone, body, start);
}

function keysTable(keys, mayWrite, revoke) {
  if (!keys.length) return h("p", { class: "hint" }, "No key: no program can connect as this agent.");
  const columns = [["Fingerprint"], ["Added"], ["", "right"]];
  return table("Keys", columns, keys.map((key) => [
    h("span", { class: "name" }, h("span", {}, key.name || key.type), h("code", {}, key.fingerprint)),
    moment(key.created_at),
    mayWrite && h("button", { type: "button", class: "small danger quiet", "aria-label": `Revoke ${key.fingerprint}`, onclick: () => revoke(key) }, "Revoke"),
  ]), keys.map((key) => key.fingerprint));
}

function used(reply, agentId) {
  const group = reply.totals.groups?.find((each) => each.agent_id === agentId);
  if (!group) return h("p", { class: "hint" }, "Nothing yet.");
  const rows = [["Published", number(group.messages)], ["Received", number(group.deliveries)], ["Data", bytes(group.bytes)], ["Connected", `${hours(group.connection_seconds)} h`]];
  return h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function editAgent(agent, address) {
  return dialog("Edit agent", (close) => form(
    [
      field("Name", input("name", { value: agent.name, required: true, maxlength: 128, autofocus: true })),
      field("Description", input("description", { value: agent.description, maxlength: 1024 })),
      field("What it can do", input("capabilities", { value: agent.capabilities.join(", ") }), "Capabilities, separated by commas."),
    ],
    {
      action: "Save",
      cancel: () => close(),
      submit: async (values) => {
        await put(address, { ...values, capabilities: words(values.capabilities) });
          close(true);
      },
    },
  ));
}
