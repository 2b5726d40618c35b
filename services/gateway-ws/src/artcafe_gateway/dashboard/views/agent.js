// One agent: how it is, its keys, what it may do, what it used.

import { agents } from "../agents.js";
import { get, list, path, put, remove } from "../api.js";
import { bytes, moment, number, since } from "../format.js";
import { poll } from "../polling.js";
import { session } from "../session.js";
import { h, replace } from "../ui/dom.js";
import { confirm, dialog, field, form, input } from "../ui/form.js";
import { failed, notice } from "../ui/notice.js";
import { statusBadge } from "../ui/status.js";
import { table } from "../ui/table.js";
import { addKey, showPrivateKey, words } from "./agent_dialogs.js";
import { grantDialog, ROLES } from "./grant_dialog.js";
import { startLines } from "./start_lines.js";

const SECONDS = 20;
const KEYS_MAX = 5;
const CHANNELS_MAX = 30;

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
  let agent = null;

  const again = poll(() => get(address, { signal }), { seconds: SECONDS, signal, show, failed: (error) => missing(error) });
  const againGrants = session.may("channels:read")
    ? poll(() => grantsOf(params.id, signal), { seconds: SECONDS * 3, signal, show: showGrants, failed: (error) => replace(grants, error.message) })
    : null;
  if (session.may("usage:read")) {
    const query = { granularity: "day", group_by: "agent" };
    poll(() => get("/usage/metrics", { query, signal }), { seconds: SECONDS, signal, show: (reply) => replace(usage, used(reply, params.id)), failed: (error) => replace(usage, error.message) });
  }

  function show(found) {
    agent = found;
    replace(heading, agent.name);
    live();
    replace(keys, keysTable(agent.keys, mayWrite, revoke));
    newKey.disabled = agent.keys.length >= KEYS_MAX;
  }

  function live() {
    const now = agents.all.get(params.id);
    const status = now?.status ?? agent?.status;
    if (!status) return;
    const lastSeen = now?.lastSeen ?? agent?.last_seen;
    const capabilities = now?.capabilities ?? agent.capabilities;
    replace(badge, statusBadge(status));
    const rows = [
      ["Id", h("code", {}, params.id)],
      ["Last seen", status === "online" ? "now" : lastSeen ? h("time", { datetime: lastSeen, title: lastSeen }, since(lastSeen)) : "never"],
      ["Capabilities", capabilities.length ? h("span", { class: "tags" }, capabilities.map((each) => h("span", { class: "tag" }, each))) : "none"],
    ];
    if (agent) {
      rows.push(["Created", moment(agent.created_at)]);
      if (agent.type) rows.push(["Type", agent.type]);
      if (agent.description) rows.push(["Description", agent.description]);
      if (Object.keys(agent.metadata).length) rows.push(["Metadata", h("code", {}, JSON.stringify(agent.metadata))]);
    }
    replace(facts, h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
  }

  function missing(error) {
    if (error.code !== "not_found") return;
    replace(badge);
    replace(facts, h("p", { class: "problem" }, "There is no such agent (any more). ", h("a", { href: "#/agents" }, "All agents")));
    for (const part of [keys, grants, usage]) replace(part, "");
  }

  function showGrants({ rows, more }) {
    replace(grants, rows.length
      ? table("Channels with a row for this agent", [["Channel"], ["May"], ["Subscribes by itself"], ["", "right"]], rows.map((row) => [
        h("a", { href: `#/channels/${encodeURIComponent(row.channel_id)}` }, row.channel_id),
        ROLES[row.role],
        row.auto_subscribe ? "yes" : "no",
        session.may("channels:write") && h("button", { type: "button", class: "small", "aria-label": `Change what it may do in ${row.channel_id}`, onclick: () => grant(row) }, "Change"),
      ]))
      : h("p", { class: "hint" }, "No channel has a row for this agent: it may use every open channel, and none that is for members only."),
      more && h("p", { class: "hint" }, `Only the first ${CHANNELS_MAX} channels were looked at.`));
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
    const text = `${params.id} is disconnected at once; its keys and its rows in channels are removed. This cannot be undone.`;
    if (await confirm(`Delete ${heading.textContent}?`, text, "Delete agent", () => remove(address))) {
      agents.refresh();
      location.hash = "#/agents";
    }
  });
  agents.addEventListener("changed", live, { signal });
  live();

  return h("article", {},
    h("p", { class: "back" }, h("a", { href: "#/agents" }, "← Agents")),
    h("div", { class: "title" }, heading, badge, mayWrite && h("span", { class: "actions" }, edit, drop)),
    h("div", { class: "grid" },
      h("section", { class: "card" }, h("h2", {}, "About"), facts),
      h("section", { class: "card" }, h("div", { class: "title" }, h("h2", {}, "Keys"), mayWrite && newKey), keys),
      session.may("channels:read") && h("section", { class: "card" }, h("div", { class: "title" }, h("h2", {}, "Channels"), session.may("channels:write") && newGrant), grants),
      session.may("usage:read") && h("section", { class: "card" }, h("h2", {}, "Usage, last 30 days"), usage)),
    start);
}

function keysTable(keys, mayWrite, revoke) {
  if (!keys.length) return h("p", { class: "hint" }, "No key: no program can connect as this agent.");
  const columns = [["Fingerprint"], ["Added"], ["", "right"]];
  return table("Keys", columns, keys.map((key) => [
    h("span", { class: "name" }, h("span", {}, key.name || key.type), h("code", {}, key.fingerprint)),
    moment(key.created_at),
    mayWrite && h("button", { type: "button", class: "small danger quiet", "aria-label": `Revoke ${key.fingerprint}`, onclick: () => revoke(key) }, "Revoke"),
  ]));
}

function used(reply, agentId) {
  const group = reply.totals.groups?.find((each) => each.agent_id === agentId);
  if (!group) return h("p", { class: "hint" }, "Nothing yet.");
  const rows = [["Published", number(group.messages)], ["Received", number(group.deliveries)], ["Data", bytes(group.bytes)], ["Connected", `${(group.connection_seconds / 3600).toFixed(1)} h`]];
  return h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

/** Find an agent's rows: the platform is asked channel by channel. */
async function grantsOf(agentId, signal) {
  const { items, more } = await list("/channels", "channels", { most: CHANNELS_MAX, signal });
  const rows = [];
  for (const channel of items.slice(0, CHANNELS_MAX)) {
    const members = await list(path`/channels/${channel.channel_id}/members`, "members", { signal });
    rows.push(...members.items.filter((row) => row.agent_id === agentId));
  }
  return { rows, more: more || items.length > CHANNELS_MAX };
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
        agents.refresh();
        close(true);
      },
    },
  ));
}
