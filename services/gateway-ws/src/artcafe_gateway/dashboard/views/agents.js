// All agents, live.

import { agents, isLost } from "../agents.js";
import { count, moment, since, span } from "../format.js";
import { poll } from "../polling.js";
import { session } from "../session.js";
import { h } from "../ui/dom.js";
import { select } from "../ui/form.js";
import { keep } from "../ui/keep.js";
import { statusBadge } from "../ui/status.js";
import { table } from "../ui/table.js";
import { createAgent, showPrivateKey } from "./agent_dialogs.js";

const SHOWN = 200;
const LOOK_SECONDS = 10;
const ORDER = { online: 0, suspect: 1, offline: 2 };
const COLUMNS = [["Agent"], ["Status"], ["Capabilities"], ["Last heard of"], ["Connected for", "right"]];
const STATUSES = [["", "Any status"], ["online", "Online"], ["suspect", "Suspect"], ["offline", "Offline"]];

export function agentsView({ query, signal }) {
  const search = h("input", { type: "search", placeholder: "Search", "aria-label": "Search by name, id or capability", autocomplete: "off" });
  const status = select("status", STATUSES, query.get("status") ?? "", { "aria-label": "Status" });
  const counter = h("p", { class: "hint", role: "status" });
  const body = h("div", { class: "list" });
  const create = h("button", { type: "button", class: "primary" }, "New agent");
  create.addEventListener("click", startAgent);
  // Those that are shown and connected, and of which it was asked when they were last heard of.
  let connected = [];
  const looked = new Set();
  const look = poll(() => agents.look(connected), { seconds: LOOK_SECONDS, signal, show: () => {} });

  function show() {
    const all = [...agents.all.values()];
    const wanted = search.value.trim().toLowerCase();
    const found = all
      .filter((agent) => !status.value || agent.status === status.value)
      .filter((agent) => !wanted || [agent.id, agent.name, ...agent.capabilities].some((text) => text.toLowerCase().includes(wanted)))
      .sort((a, b) => ORDER[a.status] - ORDER[b.status] || a.name.localeCompare(b.name));
    if (agents.error) keep(body, h("p", { class: "problem" }, agents.error.message));
    else if (!agents.complete && !all.length) keep(body, h("p", { class: "blank" }, "Loading…"));
    else if (!all.length) keep(body, blank());
    else if (!found.length) keep(body, h("p", { class: "blank" }, "No agent matches."));
    else keep(body, list(found.slice(0, SHOWN)));
    keep(counter, summary(all, found));
    connected = found.slice(0, SHOWN).filter((agent) => agent.status !== "offline").map((agent) => agent.id);
    const fresh = connected.filter((id) => !looked.has(id) && !agents.all.get(id).heardAt);
    for (const id of fresh) looked.add(id);
    if (fresh.length) look();
  }

  search.addEventListener("input", show);
  status.addEventListener("change", show);
  agents.addEventListener("changed", show, { signal });
  const clock = setInterval(show, 10_000);
  signal.addEventListener("abort", () => clearInterval(clock));
  show();
  return h("section", {},
    h("div", { class: "title" }, h("h1", {}, "Agents"), session.may("agents:write") && create),
    h("div", { class: "toolbar" }, search, status, counter), body);
}

function summary(all, found) {
  if (!all.length) return "";
  const online = all.filter((agent) => agent.status === "online").length;
  const rest = found.length > SHOWN
    ? `; the first ${SHOWN} are shown, search for others`
    : found.length < all.length ? `; ${found.length} shown` : "";
  return `${count(all.length, "agent")}, ${online} online${rest}`;
}

const list = (shown) => table("Agents", COLUMNS, shown.map(row), shown.map((agent) => agent.id));

function row(agent) {
  return [
    h("span", { class: "name" }, h("a", { href: `#/agents/${encodeURIComponent(agent.id)}` }, agent.name), h("code", {}, agent.id)),
    statusBadge(agent.status, isLost(agent) ? "lost" : undefined),
    agent.capabilities.length ? h("span", { class: "tags" }, agent.capabilities.map((each) => h("span", { class: "tag" }, each))) : h("span", { class: "hint" }, "none stated"),
    lastHeard(agent),
    connectedFor(agent),
  ];
}

/** When an agent was last heard of, in words; of one that is online as far as it was asked. */
export function lastHeard({ status, heardAt, lastSeen }) {
  const at = heardAt ?? (status === "online" ? null : lastSeen);
  if (!at) return status === "online" ? "…" : "never";
  return h("time", { datetime: at, title: moment(at) }, since(at));
}

/** How long an agent's connection has held, in words; nothing while there is none. */
export function connectedFor(agent) {
  if (!agent.connectedAt) return false;
  return h("time", { datetime: agent.connectedAt, title: `since ${moment(agent.connectedAt)}` }, span(agent.connectedAt));
}

function blank() {
  return h("div", { class: "blank" }, h("p", {}, "There are no agents yet."), h("p", {}, h("a", { href: "#/overview" }, "The overview"), " leads you to a first one that talks."));
}

/** Make an agent, hand out its key, and go to its page. */
export async function startAgent() {
  const created = await createAgent();
  if (!created) return;
  if (created.private_key) await showPrivateKey(created.agent.agent_id, created.private_key);
  location.hash = `#/agents/${encodeURIComponent(created.agent.agent_id)}`;
}
