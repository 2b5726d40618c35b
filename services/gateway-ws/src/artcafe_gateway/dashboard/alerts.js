// What needs attention in the organisation, gathered from whoever learns of it.

import { number } from "./format.js";
import { socket } from "./live.js";

const HIGH_PERCENT = 80;
const RESOURCES = {
  agents: "agents",
  channels: "channels",
  connections: "connections",
  messages: "messages of this month",
  messages_per_month: "messages of this month",
};

/** Tells "changed". An alert is `{level, text, href?}`; `level` is "bad" or "warn", `href` leads to the cause. */
class Alerts extends EventTarget {
  #by = new Map();

  constructor() {
    super();
    socket.addEventListener("frame", ({ detail }) => {
      if (detail.type === "quota") this.quota(detail.resource, detail.current, detail.limit);
      if (detail.type === "topic_preview_state") this.#preview(detail);
      if (detail.subscription === "topic_preview") this.#preview({ state: detail.state ?? "closed" });
    });
  }

  /** All of them, the worst first. */
  get all() {
    return [...this.#by.values()].flat().sort((a, b) => a.level.localeCompare(b.level));
  }

  /** Replace what one source has to say. */
  set(source, alerts) {
    const before = JSON.stringify(this.#by.get(source) ?? []);
    this.#by.set(source, alerts);
    if (JSON.stringify(alerts) !== before) this.dispatchEvent(new Event("changed"));
  }

  /** Say how much is used of a limit of the plan; null is unlimited. */
  quota(resource, current, limit) {
    const name = RESOURCES[resource] ?? resource.replaceAll("_", " ");
    const percent = limit ? Math.floor((100 * current) / limit) : 0;
    const full = limit !== null && current >= limit;
    const source = `quota of ${name}`;
    if (limit === null || (percent < HIGH_PERCENT && !full)) this.set(source, []);
    else if (full) this.set(source, [{ level: "bad", text: `The plan's limit of ${number(limit)} ${name} is reached.` }]);
    else this.set(source, [{ level: "warn", text: `${percent} % of the plan's ${name} are used: ${number(current)} of ${number(limit)}.` }]);
  }

  #preview({ state, reason }) {
    const text = reason === "overload"
      ? "The server has no time for previews right now: agents come first."
      : "This browser does not keep up with the preview: it is thinned out until it does.";
    this.set("preview", state === "closed" ? [] : [{ level: "warn", text, href: "#/preview" }]);
  }

  /** Forget everything: another organisation is shown. */
  clear() {
    this.#by.clear();
    this.dispatchEvent(new Event("changed"));
  }
}

export const alerts = new Alerts();
