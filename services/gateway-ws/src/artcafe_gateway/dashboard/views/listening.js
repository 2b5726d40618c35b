// Who hears what right now, as the gateways know it: nothing tells of it, so it is asked for while somebody looks.

import { agents } from "../agents.js";
import { socket } from "../live.js";
import { poll } from "../polling.js";
import { h } from "../ui/dom.js";
import { keep } from "../ui/keep.js";

const SECONDS = 10;
const NAMES = 50;

/** Return what an agent hears and where it speaks; asking tells when it was last heard of, too. */
export function agentChannels(agentId, signal) {
  const element = h("div", {}, "Loading…");
  const again = poll(() => agents.look([agentId]), {
    seconds: SECONDS,
    signal,
    show: ({ sessions: [found], complete }) => keep(element, found ? channelsOf(found) : h("p", { class: "hint" }, complete ? "It is not connected: it listens to no channel now." : NOT_ALL)),
    failed: (error) => keep(element, h("p", { class: "hint" }, error.message)),
  });
  let status = agents.all.get(agentId)?.status;
  agents.addEventListener("changed", () => {
    const now = agents.all.get(agentId)?.status;
    if (now === status) return;
    status = now;
    again();
  }, { signal });
  return element;
}

/** Return who listens in a channel. */
export function listenersOf(channelId, signal) {
  const element = h("div", {}, "Loading…");
  poll(() => socket.command({ type: "get_sessions", channel_id: channelId }), {
    seconds: SECONDS,
    signal,
    show: ({ sessions, complete }) => keep(element,
      sessions.length
        ? h("ul", { class: "lately" }, sessions.map(({ agent_id: id, subscribed }) => h("li", { "data-key": id },
          h("a", { href: `#/agents/${encodeURIComponent(id)}` }, agents.all.get(id)?.name ?? id),
          !subscribed.includes(channelId) && h("span", { class: "hint" }, "by ", h("code", {}, subscribed[0])))))
        : complete && h("p", { class: "hint" }, "No agent listens here right now."),
      !complete && h("p", { class: "hint" }, NOT_ALL)),
    failed: (error) => keep(element, h("p", { class: "hint" }, error.message)),
  });
  return element;
}

const NOT_ALL = "Not all gateways have answered: there may be more.";

function channelsOf({ subscribed, published }) {
  return h("dl", { class: "facts" },
    h("dt", {}, "Listens to"), h("dd", {}, names(subscribed, "no channel")),
    h("dt", {}, "Has published to"), h("dd", {}, names(published, "no channel since it connected")));
}

function names(all, none) {
  if (!all.length) return none;
  const shown = all.slice(0, NAMES).map((name, i) => [
    i > 0 && ", ",
    /[*>]/.test(name) ? h("code", {}, name) : h("a", { href: `#/channels/${encodeURIComponent(name)}` }, name),
  ]);
  return [shown, all.length > NAMES && ` and ${all.length - NAMES} more`];
}
