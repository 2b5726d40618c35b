// All agents, live.

import { agents } from "../agents.js";
import { count, since } from "../format.js";
import { session } from "../session.js";
import { h, replace } from "../ui/dom.js";
import { select } from "../ui/form.js";
import { statusBadge } from "../ui/status.js";
import { table } from "../ui/table.js";
import { createAgent, showPrivateKey } from "./agent_dialogs.js";

const SHOWN = 200;
const ORDER = { online: 0, suspect: 1, offline: 2 };
const COLUMNS = [["Agent"], ["Status"], ["Capabilities"], ["Last seen"]];

export function agentsView({ query, signal }) {
  const search = h("input", { type: "search", placeholder: "Search", "aria-label": "Search by name, id or capability", autocomplete: "off" });
  const status = select("status", [["", "Any status"], ["online", "Online"], ["suspect", "Suspect"], ["offline", "Offline"]], query.get("status") ?? "", { "aria-label": "Status" });
  const counter = h("p", { class: "hint", role: "status" });
  const body = h("div", {});
  const create = h("button", { type: "button", class: "primary" }, "New agent");
  create.addEventListener("click", startAgent);

  function show() {
    const all = [...agents.all.values()];
    const wanted = search.value.trim().toLowerCase();
    const found = all
      .filter((agent) => !status.value || agent.status === status.value)
      .filter((agent) => !wanted || [agent.id, agent.name, ...agent.capabilities].some((text) => text.toLowerCase().includes(wanted)))
      .sort((a, b) => ORDER[a.status] - ORDER[b.status] || a.name.localeCompare(b.name));
    if (agents.error) replace(body, h("p", { class: "problem" }, agents.error.message));
    else if (!agents.complete && !all.length) replace(body, h("p", { class: "blank" }, "Loading…"));
    else if (!all.length) replace(body, blank());
    else if (!found.length) replace(body, h("p", { class: "blank" }, "No agent matches."));
    else update(found.slice(0, SHOWN));
    const online = all.filter((agent) => agent.status === "online").length;
    replace(counter, all.length ? `${count(all.length, "agent")}, ${online} online${found.length > SHOWN ? `; the first ${SHOWN} are shown, search for others` : found.length < all.length ? `; ${found.length} shown` : ""}` : "");
  }

  function update(rows) {
    const focused = document.activeElement?.getAttribute("href");
    replace(body, table("Agents", COLUMNS, rows.map(row)));
    // The list was made anew under somebody's fingers: give the focus back to the same agent.
    if (focused) body.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }

  search.addEventListener("input", show);
  status.addEventListener("change", show);
  agents.addEventListener("changed", show, { signal });
  const clock = setInterval(show, 10_000);
  signal.addEventListener("abort", () => clearInterval(clock));
  show();
  return h("section", {},
    h("div", { class: "title" }, h("h1", {}, "Agents"), session.may("agents:write") && create),
    h("div", { class: "toolbar" }, search, status), counter, body);
}

function row(agent) {
  return [
    h("span", { class: "name" }, h("a", { href: `#/agents/${encodeURIComponent(agent.id)}` }, agent.name), h("code", {}, agent.id)),
    statusBadge(agent.status),
    agent.capabilities.length ? h("span", { class: "tags" }, agent.capabilities.map((each) => h("span", { class: "tag" }, each))) : h("span", { class: "hint" }, "none"),
    agent.status === "online" ? "now" : agent.lastSeen ? h("time", { datetime: agent.lastSeen, title: agent.lastSeen }, since(agent.lastSeen)) : "never",
  ];
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
