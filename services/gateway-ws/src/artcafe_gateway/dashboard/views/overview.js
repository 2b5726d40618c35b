// How things are: agents online, traffic now, usage against the plan, and what needs attention.

import { agents, isLost } from "../agents.js";
import { alerts } from "../alerts.js";
import { get, path } from "../api.js";
import { moment, number, short, since, utcDay } from "../format.js";
import { socket, watch } from "../live.js";
import { poll } from "../polling.js";
import { session } from "../session.js";
import { meter, smallBars } from "../ui/chart.js";
import { h, replace } from "../ui/dom.js";
import { isHeld, keep } from "../ui/keep.js";
import { rateLine } from "../ui/rate.js";
import { statusBadge } from "../ui/status.js";
import { firstSteps, isNew } from "./first_steps.js";

const SECONDS = 20;
const CONNECTIONS_SECONDS = 10;
const LATELY = 6;
const LOST_ALERTS = 5;
const LOST_MS = 3_600_000;

export function overviewView({ signal }) {
  const traffic = session.may("messages:read") && trafficCard(signal);
  const now = session.may("usage:read")
    ? [
      h("div", { class: "tiles" }, agentsTile(signal), todayTile(signal), monthTile(signal)),
      h("div", { class: "split" }, traffic, attentionCard(signal)),
    ]
    : h("div", { class: "split" }, traffic, h("div", {}, agentsTile(signal), attentionCard(signal)));
  return h("section", {},
    h("h1", {}, "Overview"),
    guide(signal),
    now,
    h("div", { class: "split" }, latelyCard(signal), planCard(signal)));
}

/** Return a line that says why figures could not be read, to be handed to `poll`; `read()` empties it. */
function unread() {
  const line = h("p", { class: "problem" });
  return {
    line,
    failed: (error) => replace(line, `Cannot be read right now: ${error.message}`),
    read: () => replace(line),
  };
}

/** The first steps, where the organisation turns out to be new; they stay until the page is left. */
function guide(signal) {
  const place = h("div", {});
  const look = () => {
    if (place.hasChildNodes() || !isNew()) return;
    replace(place, firstSteps({ signal }));
  };
  agents.addEventListener("changed", look, { signal });
  look();
  return place;
}

function tile(title, ...content) {
  return h("section", { class: "card", "aria-label": title }, h("h2", {}, title), content);
}

function agentsTile(signal) {
  const online = h("strong", { class: "big" }, "–");
  const others = h("p", { class: "hint" });
  const parts = h("div", { class: "parts", "aria-hidden": "true" });
  const show = () => {
    if (!agents.complete) return;
    const all = [...agents.all.values()];
    const count = (status) => all.filter((agent) => agent.status === status).length;
    replace(online, `${number(count("online"))} `, h("small", {}, `of ${number(all.length)}`));
    replace(others, count("suspect") ? `${count("suspect")} did not answer lately` : count("online") ? "connected right now" : all.length ? "none is connected" : "no agent yet");
    replace(parts, all.length <= 60 && all.map((agent) => agent.status).sort().reverse().map((status) => h("span", { class: status })));
  };
  agents.addEventListener("changed", show, { signal });
  show();
  return tile("Agents online", h("p", {}, online), others, parts);
}

function todayTile(signal) {
  const today = h("strong", { class: "big" }, "–");
  const hours = h("div", {});
  const why = unread();
  const ask = () => {
    // The page may stay open over midnight.
    const day = utcDay();
    return get("/usage/metrics", { query: { start_date: day, end_date: day, granularity: "hour" }, signal });
  };
  poll(ask, {
    seconds: SECONDS,
    signal,
    failed: why.failed,
    show: (reply) => {
      why.read();
      replace(today, short(reply.totals.messages), " ", h("small", {}, reply.totals.messages === 1 ? "message" : "messages"));
      replace(hours, smallBars("Messages by hour of this day, UTC", reply.metrics.map((hour) => hour.messages)));
    },
  });
  return tile("Today", h("p", {}, today), h("p", { class: "hint" }, "by hour, UTC"), why.line, hours);
}

function monthTile(signal) {
  const month = h("strong", { class: "big" }, "–");
  const used = h("div", {});
  const why = unread();
  poll(() => get("/usage/current", { signal }), {
    seconds: SECONDS,
    signal,
    failed: why.failed,
    show: ({ usage, limits }) => {
      why.read();
      replace(month, short(usage.messages), " ", h("small", {}, usage.messages === 1 ? "message" : "messages"));
      replace(used, meter("Plan", usage.messages, limits.messages_per_month, number));
      alerts.quota("messages_per_month", usage.messages, limits.messages_per_month);
    },
  });
  return tile("This month", h("p", {}, month), why.line, used);
}

/** Messages per second of the whole organisation: a preview that shows none of them and only counts. */
function trafficCard(signal) {
  const rate = rateLine("Messages per second", "all", signal);
  // Before it is confirmed what comes is of the page before this one, which may have had a preview of its own.
  let begun = false;
  watch({
    begin: { type: "subscribe_topic_preview", patterns: [">"], counts_only: true },
    end: { type: "unsubscribe_topic_preview" },
    frame: (frame) => {
      // What the platform itself tells of presence is nobody's message.
      if (begun && frame.type === "topic_preview_dropped") rate.add(frame.count - (frame.presence ?? 0));
    },
    begun: () => {
      begun = true;
    },
    signal,
  });
  return h("section", { class: "card", "aria-label": "Messages now" }, h("h2", {}, "Messages now"), rate.element);
}

function attentionCard(signal) {
  const list = h("ul", { class: "alerts" });
  const show = () => {
    const all = alerts.all;
    keep(list, all.length
      ? all.map(({ level, text, href }) => h("li", { class: level, "data-key": text }, text, href && [" ", h("a", { href }, "Look")]))
      : h("li", { class: "good" }, "Nothing needs attention."));
  };
  alerts.addEventListener("changed", show, { signal });
  agents.addEventListener("changed", tellLost, { signal });
  poll(health, { seconds: SECONDS, signal, show: tellHealth });
  tellLost();
  show();
  return h("section", { class: "card" }, h("h2", {}, "Attention"), h("div", { role: "status" }, list));
}

function tellLost() {
  const now = Date.now();
  const lost = [...agents.all.values()].filter((agent) => agent.status === "suspect" || (isLost(agent) && now - new Date(agent.changedAt ?? agent.lastSeen) < LOST_MS));
  const told = lost.slice(0, LOST_ALERTS).map((agent) => ({
    level: "warn",
    text: agent.status === "suspect"
      ? `${agent.name} does not answer: its connection may be gone.`
      : `${agent.name} was lost (${agent.reason}). It was last heard of at ${moment(agent.heardAt ?? agent.lastSeen)}.`,
    href: `#/agents/${encodeURIComponent(agent.id)}`,
  }));
  if (lost.length > LOST_ALERTS) told.push({ level: "warn", text: `${lost.length - LOST_ALERTS} more agents were lost within the hour.`, href: "#/agents?status=offline" });
  alerts.set("agents", told);
}

function tellHealth({ services }) {
  if (Object.values(services).some(({ status }) => status === "unknown")) {
    alerts.set("health", [{ level: "bad", text: "The message bus does not answer: no message comes through, and how the other services are is not known." }]);
    return;
  }
  alerts.set("health", Object.entries(services).filter(([, service]) => service.status !== "up").map(([name, service]) => {
    const missing = service.dependencies.filter((each) => each.status !== "up" && each.name !== name).map((each) => each.name);
    return { level: service.status === "down" ? "bad" : "warn", text: `The service ${name} is ${service.status}${missing.length ? ` (${missing.join(", ")})` : ""}.` };
  }));
}

/** Ask how the services are; an answer that says "down" comes with status 503. */
async function health() {
  const answer = await fetch("/api/v1/health", { credentials: "omit", cache: "no-store" });
  return answer.json();
}

/** Whose presence changed last. */
function latelyCard(signal) {
  const list = h("ul", { class: "lately" });
  let latest = [];
  const changedAt = (agent) => (agent.status === "online" ? agent.connectedAt : agent.changedAt ?? agent.lastSeen) ?? "";
  const show = () => {
    // Who is here stays here while somebody is about to choose one.
    if (!latest.length || !isHeld(list)) {
      latest = [...agents.all.values()].filter(changedAt).sort((a, b) => changedAt(b).localeCompare(changedAt(a))).slice(0, LATELY);
    }
    latest = latest.map(({ id }) => agents.all.get(id)).filter(Boolean);
    keep(list, latest.length
      ? latest.map((agent) => h("li", { "data-key": agent.id },
        statusBadge(agent.status, isLost(agent) ? "lost" : undefined),
        h("a", { href: `#/agents/${encodeURIComponent(agent.id)}` }, agent.name),
        h("time", { class: "hint", datetime: changedAt(agent), title: moment(changedAt(agent)) }, since(changedAt(agent)))))
      : h("li", { class: "hint" }, "No agent has been connected yet."));
  };
  agents.addEventListener("changed", show, { signal });
  const clock = setInterval(show, 30_000);
  signal.addEventListener("abort", () => clearInterval(clock));
  show();
  return h("section", { class: "card" }, h("h2", {}, "Agents lately"), list);
}

function planCard(signal) {
  const title = h("h2", {}, "Plan");
  const body = h("div", {}, h("p", { class: "hint" }, "Loading…"));
  const connections = h("div", {});
  poll(() => socket.command({ type: "get_connections" }), {
    seconds: CONNECTIONS_SECONDS,
    changed: ({ kind }) => kind === "tenant",
    signal,
    show: ({ current, limit }) => {
      replace(connections, limit !== null && meter("Connections", current, limit, number));
      alerts.quota("connections", current, limit);
    },
  });
  poll(() => get(path`/tenants/${session.tenant.id}`, { signal }), {
    changed: ({ kind, action }) => kind === "tenant" || ((kind === "agent" || kind === "channel") && action !== "updated"),
    signal,
    show: (tenant) => {
      const { limits } = tenant;
      replace(title, `Plan ${tenant.plan}`);
      const rates = [
        ["messages per second", limits.messages_per_second],
        ["connections", limits.connections],
        ["API calls per minute", limits.api_calls_per_minute],
      ].map(([name, limit]) => `${limit === null ? "unlimited" : number(limit)} ${name}`);
      replace(body, meter("Agents", tenant.agents, limits.agents, number), meter("Channels", tenant.channels, limits.channels, number), connections, h("p", { class: "hint" }, `At most ${rates.join(", ")}.`));
      alerts.quota("agents", tenant.agents, limits.agents);
      alerts.quota("channels", tenant.channels, limits.channels);
    },
    failed: (error) => replace(body, h("p", { class: "problem" }, error.message)),
  });
  return h("section", { class: "card" }, title, body);
}
