// From nothing to a first agent that talks.

import { agents } from "../agents.js";
import { list, post } from "../api.js";
import { changes } from "../changes.js";
import { watch } from "../live.js";
import { session } from "../session.js";
import { h, replace } from "../ui/dom.js";
import { keep } from "../ui/keep.js";
import { failed } from "../ui/notice.js";
import { addAndShowKey, createAgent, showPrivateKey, wasSaved } from "./agent_dialogs.js";
import { FIRST_CHANNEL, startLines } from "./start_lines.js";

/** Tell whether the organisation is new: no agent was ever seen. */
export const isNew = () => agents.complete && [...agents.all.values()].every((agent) => agent.lastSeen === null);

/** Return the guide. */
export function firstSteps({ signal }) {
  const steps = [1, 2, 3, 4].map(() => h("div", {}));
  const items = steps.map((step) => h("li", {}, step));
  let agentId = null;
  let known = false;
  let channel = false;
  let shown = "";
  let lines = "";
  let heard = null;
  let handingOut = false;

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
      const before = channel;
      channel = items.some((each) => each.channel_id === FIRST_CHANNEL);
      if (channel && !before) listen({ type: "subscribe_channel", channel_id: FIRST_CHANNEL });
      draw();
    } catch (error) {
      failed("Channels", error);
    }
  }

  async function makeAgent() {
    // The agent is told of before its key is saved: nothing is said of that until it is.
    handingOut = true;
    const created = await createAgent();
    if (created) {
      agentId = created.agent.agent_id;
      known = false;
      if (created.private_key) await showPrivateKey(agentId, created.private_key);
    }
    handingOut = false;
    draw();
    if (created) goOn();
  }

  /** The button that was pressed is gone: whoever has no pointer goes on with the next step. */
  function goOn() {
    items.map((item) => item.querySelector("button.primary, input:checked")).find(Boolean)?.focus();
  }

  /** An agent that was made elsewhere: whoever has its key may not be who sits here. */
  async function addKey() {
    try {
      await addAndShowKey(agentId);
    } catch (error) {
      failed("Adding a key", error);
    }
    draw();
  }

  async function makeChannel() {
    try {
      await post("/channels", { channel_id: FIRST_CHANNEL, name: "Hello", description: "Where first agents say hello." });
    } catch (error) {
      if (error.code !== "already_exists") return failed("Making the channel", error);
    }
    await look();
    goOn();
  }

  function draw() {
    if (handingOut) return;
    // One that somebody has deleted meanwhile is no step.
    if (known && !agents.all.has(agentId)) agentId = null;
    agentId ??= agents.all.keys().next().value ?? null;
    known = agents.all.has(agentId);
    const saved = wasSaved(agentId);
    const online = [...agents.all.values()].find((agent) => agent.status === "online");
    const state = JSON.stringify([agentId, saved, channel, online?.id, heard?.message_id]);
    if (state === shown) return;
    shown = state;
    const done = [agentId !== null, channel, Boolean(online), heard !== null];
    const current = done.indexOf(false);
    items.forEach((item, i) => {
      item.className = done[i] ? "done" : i === current ? "current" : "";
      if (i === current) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    });
    keep(steps[0], h("h3", {}, "Make an agent"), done[0]
      ? [
        h("p", {}, "The agent ", h("a", { href: `#/agents/${agentId}` }, agentId), " is there."),
        !saved && !online && [
          h("p", {}, "It was not made on this page, so its private key is wherever that was done. Take that one, or another for the same agent, or begin with an agent of your own."),
          h("div", { class: "actions" },
            h("button", { type: "button", onclick: addKey }, `Add and download a key for ${agentId}`),
            h("button", { type: "button", onclick: makeAgent }, "Make an agent")),
        ],
      ]
      : [h("p", {}, "An agent is a program with a name and a key of its own."), h("button", { type: "button", class: "primary", onclick: makeAgent }, "Make the first agent")]);
    keep(steps[1], h("h3", {}, "Make a channel"), done[1]
      ? h("p", {}, "The channel ", h("a", { href: `#/channels/${FIRST_CHANNEL}` }, FIRST_CHANNEL), " is there.")
      : [h("p", {}, "Agents talk in channels."), h("button", { type: "button", class: current === 1 ? "primary" : "", onclick: makeChannel }, `Make the channel ${FIRST_CHANNEL}`)]);
    // The lines stay as they are, so that a selection in them is not lost.
    const wanted = `${agentId} ${saved}`;
    if (wanted !== lines) {
      lines = wanted;
      replace(steps[2], h("h3", {}, "Start it on your machine"), h("p", { class: "wait", role: "status" }), agentId && startLines(agentId));
    }
    keep(steps[2].querySelector(".wait"), online ? `${online.id} is online.` : agentId ? `Waiting for ${agentId} to connect…` : "");
    keep(steps[3], h("h3", {}, "Hear it talk"), heard
      ? h("div", { class: "heard", role: "status" }, h("p", {}, h("strong", {}, heard.from), " says ", h("code", {}, JSON.stringify(heard.data))), h("p", {}, h("a", { class: "button primary", href: `#/channels/${FIRST_CHANNEL}` }, "Answer it")))
      : h("p", {}, "What it says in the channel appears here."));
  }

  look();
  // Agents may make it by using it.
  changes.addEventListener("changed", ({ detail }) => detail.kind === "channel" && detail.id === FIRST_CHANNEL && look(), { signal });
  agents.addEventListener("changed", draw, { signal });
  draw();
  if (!session.may("agents:write") || !session.may("channels:write")) {
    return h("section", { class: "card" }, h("h2", {}, "Nothing here yet"), h("p", {}, `Your role (${session.role}) may look, not make. When somebody has made an agent and started it, you see it here.`));
  }
  return h("section", { class: "card steps", "aria-label": "First steps" }, h("h2", {}, "Your first agent, in four steps"), h("ol", {}, items));
}
