// How things are: agents online, traffic now, usage against the plan, and what needs attention.

import { agents } from "../agents.js";
import { get, path } from "../api.js";
import { number, short } from "../format.js";
import { socket, watch } from "../live.js";
import { poll } from "../polling.js";
import { session } from "../session.js";
import { meter, sparkline } from "../ui/chart.js";
import { h, replace } from "../ui/dom.js";
import { firstSteps, isNew } from "./first_steps.js";

const SECONDS = 20;
const RATE_POINTS = 90;
const HIGH = 0.8;

export function overviewView({ signal }) {
  const guide = h("div", {});
  const online = h("strong", { class: "big" }, "–");
  const others = h("p", { class: "hint" });
  const today = h("strong", { class: "big" }, "–");
  const month = h("p", { class: "hint" });
  const limits = h("div", {}, h("p", { class: "hint" }, "Loading…"));
  const alerts = h("ul", { class: "alerts" });
  const mayUsage = session.may("usage:read");
  const told = { health: [], usage: [], agents: [] };
  let guided = false;

  function showAgents() {
    if (!agents.complete) return;
    const all = [...agents.all.values()];
    const count = (status) => all.filter((agent) => agent.status === status).length;
    replace(online, `${number(count("online"))} `, h("small", {}, `of ${number(all.length)}`));
    replace(others, count("suspect") ? `${count("suspect")} did not answer lately` : all.length ? "connected right now" : "no agent yet");
    told.agents = all.filter((agent) => agent.status === "suspect").slice(0, 5).map((agent) =>
      ["warn", h("span", {}, h("a", { href: `#/agents/${agent.id}` }, agent.name), " does not answer: its connection may be gone.")]);
    if (isNew() && !guided) {
      guided = true;
      replace(guide, firstSteps({ signal }));
    }
    showAlerts();
  }

  function showUsage(reply) {
    replace(today, short(reply.today.messages));
    replace(month, `${number(reply.usage.messages)} this month`);
    told.usage = [];
    const used = [["Messages this month", reply.usage.messages, reply.limits.messages_per_month, number]];
    showMeters(used);
    near("messages of this month", reply.usage.messages, reply.limits.messages_per_month);
    showAlerts();
  }

  let meters = [];
  let tenantMeters = [];
  function showMeters(used) {
    meters = used;
    drawMeters();
  }

  function showTenant(tenant) {
    tenantMeters = [["Agents", tenant.agents, tenant.limits.agents, number], ["Channels", tenant.channels, tenant.limits.channels, number]];
    told.tenant = [];
    near("agents", tenant.agents, tenant.limits.agents, "tenant");
    near("channels", tenant.channels, tenant.limits.channels, "tenant");
    replace(plan, `Plan ${tenant.plan}`);
    const rates = [
      ["messages per second", tenant.limits.messages_per_second],
      ["connections", tenant.limits.connections],
      ["API calls per minute", tenant.limits.api_calls_per_minute],
    ].map(([name, limit]) => `${limit === null ? "unlimited" : number(limit)} ${name}`);
    replace(others2, `At most ${rates.join(", ")}.`);
    drawMeters();
    showAlerts();
  }
  const plan = h("h2", {}, "Plan");
  const others2 = h("p", { class: "hint" });

  function drawMeters() {
    replace(limits, [...meters, ...tenantMeters].map(([label, value, limit, format]) => meter(label, value, limit, format)), others2);
  }

  function near(what, value, limit, group = "usage") {
    if (limit === null || value < limit * HIGH) return;
    told[group].push(value >= limit ? ["bad", `The plan's limit of ${number(limit)} ${what} is reached.`] : ["warn", `${Math.round((100 * value) / limit)} % of the plan's ${what} are used.`]);
  }

  function showHealth(health) {
    told.health = [];
    for (const [name, service] of Object.entries(health.services)) {
      if (service.status === "up") continue;
      const missing = service.dependencies.filter((each) => each.status !== "up" && each.name !== name).map((each) => each.name);
      told.health.push([service.status === "down" ? "bad" : "warn", `The service ${name} is ${service.status}${missing.length ? ` (${missing.join(", ")})` : ""}.`]);
    }
    showAlerts();
  }

  let written = null;
  function showAlerts() {
    const all = [...told.health, ...(told.tenant ?? []), ...told.usage, ...told.agents];
    const text = all.map(([kind, what]) => `${kind}${what.textContent ?? what}`).join("\n");
    if (text === written) return;
    written = text;
    replace(alerts, all.length ? all.map(([kind, what]) => h("li", { class: kind }, what)) : h("li", { class: "good" }, "Nothing needs attention."));
  }

  agents.addEventListener("changed", showAgents, { signal });
  showAgents();
  if (mayUsage) poll(() => get("/usage/current", { signal }), { seconds: SECONDS, signal, show: showUsage });
  poll(() => get(path`/tenants/${session.tenant.id}`, { signal }), { seconds: SECONDS * 3, signal, show: showTenant });
  poll(health, { seconds: SECONDS, signal, show: showHealth });

  return h("section", {},
    h("h1", {}, "Overview"),
    guide,
    h("div", { class: "tiles" },
      h("section", { class: "card", "aria-label": "Agents online" }, h("h2", {}, "Agents online"), h("p", {}, online), others),
      session.may("messages:read") && rateTile(signal),
      mayUsage && h("section", { class: "card", "aria-label": "Messages today" }, h("h2", {}, "Messages today"), h("p", {}, today), month)),
    h("div", { class: "grid" },
      h("section", { class: "card" }, h("h2", {}, "Attention"), h("div", { role: "status" }, alerts)),
      h("section", { class: "card" }, plan, limits)));
}

/** Messages per second of the whole organisation: a preview of one a second, and the count of what it left out. */
function rateTile(signal) {
  const rate = h("strong", { class: "big" }, "0");
  const line = sparkline("Messages per second", RATE_POINTS);
  let count = 0;
  watch({
    begin: { type: "subscribe_topic_preview", patterns: [">"], max_rate: 1 },
    end: { type: "unsubscribe_topic_preview" },
    frame: (frame) => {
      if (frame.type === "topic_preview_message") count += 1;
      if (frame.type === "topic_preview_dropped") count += frame.count;
    },
    signal,
  });
  const recent = [];
  const ticking = setInterval(() => {
    if (socket.state.name !== "live") {
      replace(rate, "–");
      return;
    }
    // What was left out is told once a second, sometimes twice in one of ours: three make it even.
    recent.push(count);
    count = 0;
    if (recent.length > 3) recent.shift();
    const value = recent.reduce((sum, each) => sum + each, 0) / recent.length;
    const shown = value >= 10 ? Math.round(value) : Math.round(value * 10) / 10;
    replace(rate, `${number(shown)} `, h("small", {}, "per second"));
    line.push(shown);
  }, 1000);
  signal.addEventListener("abort", () => clearInterval(ticking));
  return h("section", { class: "card", "aria-label": "Messages now" }, h("h2", {}, "Messages now"), h("p", {}, rate), line.element);
}

/** Ask how the services are; an answer that says "down" comes with status 503. */
async function health() {
  const answer = await fetch("/api/v1/health", { credentials: "omit", cache: "no-store" });
  return answer.json();
}
