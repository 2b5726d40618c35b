// From nothing to a first agent that talks.

import { agents } from "../agents.js";
import { list, post } from "../api.js";
import { watch } from "../live.js";
import { session } from "../session.js";
import { h, replace } from "../ui/dom.js";
import { failed } from "../ui/notice.js";
import { createAgent, showPrivateKey } from "./agent_dialogs.js";
import { FIRST_CHANNEL, startLines } from "./start_lines.js";

/** Tell whether the organisation is new: no agent was ever seen. */
export const isNew = () => agents.complete && [...agents.all.values()].every((agent) => agent.lastSeen === null);

/** Return the guide. */
export function firstSteps({ signal }) {
  const steps = [1, 2, 3, 4].map(() => h("div", {}));
  const items = steps.map((step) => h("li", {}, step));
  let agentId = null;
  let channel = false;
  let shown = "";
  let heard = null;

  const listen = watch({
    begin: null,
    end: { type: "unsubscribe_channel", channel_id: FIRST_CHANNEL },
    frame: (frame) => {
      if (frame.type !== "channel_message" || frame.channel_id !== FIRST_CHANNEL || frame.from.startsWith("user:")) return;
      heard = frame;
      draw();
    },
    signal,
  });

  async function look() {
    try {
      const { items } = await list("/channels", "channels", { signal });
      channel = items.some((each) => each.channel_id === FIRST_CHANNEL);
      if (channel) listen({ type: "subscribe_channel", channel_id: FIRST_CHANNEL });
      draw();
    } catch (error) {
      failed("Channels", error);
    }
  }

  async function makeAgent() {
    const created = await createAgent();
    if (!created) return;
    agentId = created.agent.agent_id;
    if (created.private_key) await showPrivateKey(agentId, created.private_key);
    draw();
    items[1].querySelector("button")?.focus();
  }

  async function makeChannel() {
    try {
      await post("/channels", { channel_id: FIRST_CHANNEL, name: "Hello", description: "Where first agents say hello." });
    } catch (error) {
      if (error.code !== "already_exists") return failed("Making the channel", error);
    }
    return look();
  }

  function draw() {
    agentId ??= agents.all.keys().next().value ?? null;
    const online = [...agents.all.values()].find((agent) => agent.status === "online");
    const state = JSON.stringify([agentId, channel, online?.id, heard?.message_id]);
    if (state === shown) return;
    shown = state;
    const done = [agentId !== null, channel, Boolean(online), heard !== null];
    const current = done.indexOf(false);
    items.forEach((item, i) => {
      item.className = done[i] ? "done" : i === current ? "current" : "";
      if (i === current) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    });
    replace(steps[0], h("h3", {}, "Make an agent"), done[0]
      ? h("p", {}, "The agent ", h("a", { href: `#/agents/${agentId}` }, agentId), " is there.")
      : [h("p", {}, "An agent is a program with a name and a key of its own."), h("button", { type: "button", class: "primary", onclick: makeAgent }, "Make the first agent")]);
    replace(steps[1], h("h3", {}, "Make a channel"), done[1]
      ? h("p", {}, "The channel ", h("a", { href: `#/channels/${FIRST_CHANNEL}` }, FIRST_CHANNEL), " is there.")
      : [h("p", {}, "Agents talk in channels."), h("button", { type: "button", class: current === 1 ? "primary" : "", onclick: makeChannel }, `Make the channel ${FIRST_CHANNEL}`)]);
    // The lines stay as they are, so that a selection in them is not lost.
    if (!steps[2].querySelector("pre") || !agentId) {
      replace(steps[2], h("h3", {}, "Start it on your machine"), h("p", { class: "wait", role: "status" }), agentId && startLines(agentId));
    }
    replace(steps[2].querySelector(".wait"), online ? `${online.id} is online.` : agentId ? `Waiting for ${agentId} to connect…` : "");
    replace(steps[3], h("h3", {}, "Hear it talk"), heard
      ? h("div", { role: "status" }, h("p", {}, h("strong", {}, heard.from), " says ", h("code", {}, JSON.stringify(heard.data))), h("p", {}, h("a", { class: "button primary", href: `#/channels/${FIRST_CHANNEL}` }, "Answer it")))
      : h("p", {}, "What it says in the channel appears here."));
  }

  look();
  agents.addEventListener("changed", draw, { signal });
  draw();
  if (!session.may("agents:write") || !session.may("channels:write")) {
    return h("section", { class: "card" }, h("h2", {}, "Nothing here yet"), h("p", {}, `Your role (${session.role}) may look, not make. When somebody has made an agent and started it, you see it here.`));
  }
  return h("section", { class: "card steps", "aria-label": "First steps" }, h("h2", {}, "Your first agent, in four steps"), h("ol", {}, items));
}
