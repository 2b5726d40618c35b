// Preview: the organisation's live traffic, by pattern, as fast as the server lets through.

import { number } from "../format.js";
import { socket, watch } from "../live.js";
import { h, replace } from "../ui/dom.js";
import { field, form, input, select } from "../ui/form.js";
import { messageList } from "../ui/messages.js";

const RATES = [["5", "5 a second"], ["20", "20 a second"], ["50", "50 a second"]];

export function previewView({ query, signal }) {
  const messages = messageList({ withChannel: true, empty: "Waiting for messages.", signal });
  const state = h("p", { class: "hint", role: "status" }, "…");
  const shown = h("strong", {}, "0");
  const dropped = h("strong", {}, "0");
  const rate = h("strong", {}, "0");
  const counts = { shown: 0, dropped: 0, now: 0 };
  const begin = (patterns, max) => ({ type: "subscribe_topic_preview", patterns, max_rate: max });

  const again = watch({
    begin: begin(split(query.get("pattern") ?? ">"), 20),
    end: { type: "unsubscribe_topic_preview" },
    frame: (frame) => {
      if (frame.type === "subscription_confirmed" && frame.subscription === "topic_preview") {
        replace(state, "Watching ", frame.patterns.map((pattern, i) => [i > 0 && ", ", h("code", {}, pattern)]), `, at most ${number(frame.max_rate)} messages a second.`);
        state.classList.remove("problem");
      } else if (frame.type === "topic_preview_message") {
        counts.shown += 1;
        counts.now += 1;
        messages.add({ id: frame.message_id, channel: frame.topic, from: frame.path.publisher, at: frame.timestamp, data: frame.data, size: frame.size, path: frame.path });
      } else if (frame.type === "topic_preview_dropped") {
        counts.dropped += frame.count;
        counts.now += frame.count;
      }
    },
    failed: (error) => {
      replace(state, error.message);
      state.classList.add("problem");
    },
    gap: (seconds) => messages.note(`The connection was away for ${Math.ceil(seconds)} s: messages of that time are not shown.`),
    signal,
  });

  const ticking = setInterval(() => {
    replace(shown, number(counts.shown));
    replace(dropped, number(counts.dropped));
    replace(rate, socket.state.name === "live" ? number(counts.now) : "–");
    counts.now = 0;
  }, 1000);
  signal.addEventListener("abort", () => clearInterval(ticking));

  const controls = form(
    [
      field("Patterns", input("patterns", { value: query.get("pattern") ?? ">", spellcheck: "false", required: true }), "Channel ids, separated by spaces."),
      field("Show at most", select("rate", RATES, "20")),
    ],
    { action: "Watch", submit: async (values) => again(begin(split(values.patterns), Number(values.rate))) },
  );
  controls.classList.add("inline");

  return h("section", {},
    h("h1", {}, "Preview"),
    h("p", { class: "lead" }, "All messages of the organisation as they pass. Watching costs the agents nothing."),
    h("div", { class: "card" },
      controls,
      h("details", { class: "fold" }, h("summary", {}, "How patterns work"),
        h("dl", { class: "facts" },
          h("dt", {}, h("code", {}, ">")), h("dd", {}, "everything"),
          h("dt", {}, h("code", {}, "team.updates")), h("dd", {}, "this one channel"),
          h("dt", {}, h("code", {}, "team.*")), h("dd", {}, "channels with exactly one more part after team."),
          h("dt", {}, h("code", {}, "team.>")), h("dd", {}, "channels with one or more parts after team."),
          h("dt", {}, h("code", {}, "*.errors audit.>")), h("dd", {}, "several patterns: what matches one of them"))),
      state,
      h("dl", { class: "counters" },
        h("div", {}, h("dt", {}, "passing per second"), h("dd", {}, rate)),
        h("div", {}, h("dt", {}, "shown"), h("dd", {}, shown)),
        h("div", {}, h("dt", {}, "left out, too fast"), h("dd", {}, dropped)))),
    h("div", { class: "card" }, messages.element));
}

const split = (text) => text.split(/[\s,]+/).filter(Boolean);
