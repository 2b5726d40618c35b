// Preview: the organisation's live traffic, by pattern and condition, as fast as the server lets through.

import { bytes, number, time } from "../format.js";
import { watch } from "../live.js";
import { h, replace } from "../ui/dom.js";
import { checkbox, field, form, input, select } from "../ui/form.js";
import { messageList } from "../ui/messages.js";
import { rateLine } from "../ui/rate.js";

const RATES = [["5", "5 a second"], ["20", "20 a second"], ["50", "50 a second"]];
const SAMPLES = [["1", "Every message"], ["10", "Every 10th"], ["100", "Every 100th"], ["1000", "Every 1,000th"]];
const CUTS = [["1000", "1 KB of each"], ["4000", "4 KB of each"], ["16000", "16 KB of each"]];
const DEFAULTS = { patterns: ">", rate: "20", sender: "", min: "", max: "", sample: "1", cut: "4000", batch: "yes" };

// What the server takes; it says of several only that one is not valid.
const PART = "(?:[A-Za-z0-9_-]{1,64}|\\*)";
const PATTERN = new RegExp(`^(?:>|${PART}(?:\\.${PART})*(?:\\.>)?)$`);
const SENDER = /^(?:user:.{1,255}|[A-Za-z0-9_-]{1,64})$/;

// Why messages were not shown, as the server tells it.
const REASONS = {
  sample: "between the samples",
  rate_limit: "over the rate",
  tenant_rate_limit: "over the organisation's rate",
  slow_dashboard: "this browser did not keep up",
  overload: "the server was busy with agents",
  tap_closed: "not heard: the server was busy with agents or the message bus was away (estimated)",
};
const STATES = {
  closed: ["good", "Breaker closed: this browser keeps up."],
  sampled: ["warn", "Breaker sampling: this browser does not keep up, one message in ten is shown."],
  open: ["bad", "Breaker open: this browser does not keep up, nothing is shown until it has caught up."],
  half_open: ["warn", "Breaker half open: one message in ten is shown, to see whether this browser keeps up again."],
};
const OVERLOADED = ["bad", "Breaker open: the server has no time for previews right now, agents come first. It goes on by itself."];

export function previewView({ query, signal }) {
  const asked = { ...DEFAULTS, ...Object.fromEntries(query) };
  const messages = messageList({ withChannel: true, empty: "Waiting for messages.", signal });
  const rate = rateLine("Messages per second that match", watched(asked), signal);
  const state = h("p", { class: "hint", role: "status" }, "…");
  const breaker = h("p", { class: "breaker", role: "status" });
  const shown = h("dd", {}, "0");
  const dropped = h("dd", {}, "0");
  const why = h("p", { class: "hint" });
  const left = new Map();
  let count = 0;
  let another = null;
  // Before it is confirmed what comes is of the page before this one, which had a preview of its own.
  let begun = false;

  const again = watch({
    begin: wrong(asked) ? null : command(asked),
    end: { type: "unsubscribe_topic_preview" },
    frame: (frame) => {
      if (!begun) return;
      if (frame.type === "topic_preview_message") add(frame);
      if (frame.type === "topic_preview_batch") frame.messages.forEach(add);
      if (frame.type === "topic_preview_dropped") leftOut(frame);
      if (frame.type === "topic_preview_state") changed(frame);
    },
    begun: confirmed,
    failed: ({ message }) => refused(message),
    gap: (text) => messages.note(text),
    signal,
  });

  if (wrong(asked)) refused(wrong(asked));

  function refused(text) {
    replace(state, text);
    state.classList.add("problem");
  }

  function confirmed(frame) {
    begun = true;
    replace(state, ...summary(frame));
    state.classList.remove("problem");
    messages.listening();
    if (another) {
      messages.note(`From here on ${state.textContent.replace("Watching ", "")}`, "good");
      rate.of(watched(another));
    }
    another = null;
    tellState(frame.state, "");
  }

  function add(message) {
    count += 1;
    if (message.path.kind !== "presence") rate.add(1);
    messages.add({
      id: message.message_id,
      channel: message.topic,
      from: message.path.publisher,
      at: message.timestamp,
      data: message.data,
      size: message.size,
      truncated: message.truncated === true,
      path: message.path,
    });
  }

  function leftOut(frame) {
    rate.add(frame.count - (frame.presence ?? 0));
    left.set(frame.reason, (left.get(frame.reason) ?? 0) + frame.count);
  }

  function changed(frame) {
    tellState(frame.state, frame.reason);
    messages.note(`${time(frame.timestamp)} ${words(frame.state, frame.reason)[1]}`, words(frame.state, frame.reason)[0]);
  }

  function tellState(name, reason) {
    const [level, text] = words(name, reason);
    breaker.className = `breaker ${level}`;
    replace(breaker, text);
  }

  const ticking = setInterval(() => {
    replace(shown, number(count));
    replace(dropped, number([...left.values()].reduce((sum, each) => sum + each, 0)));
    replace(why, [...left].map(([reason, each]) => `${number(each)} ${REASONS[reason] ?? reason}`).join(", "));
  }, 500);
  signal.addEventListener("abort", () => clearInterval(ticking));

  const controls = form(fields(asked), {
    action: "Watch",
    submit: async (values) => {
      const wanted = { ...values, batch: values.batch ? "yes" : "no" };
      const problem = wrong(wanted);
      if (problem) throw new Error(problem);
      remember(wanted);
      another = wanted;
      again(command(wanted));
    },
  });
  controls.classList.add("preview-form");

  return h("section", {},
    h("h1", {}, "Preview"),
    h("p", { class: "lead" }, "The organisation's messages as they pass. Watching never slows the agents: what is too much is left out here, and counted."),
    h("div", { class: "split" },
      h("div", { class: "card" }, controls, state),
      h("section", { class: "card", "aria-label": "How much passes" },
        rate.element,
        h("dl", { class: "counters" },
          h("div", {}, h("dt", {}, "shown"), shown),
          h("div", {}, h("dt", {}, "left out"), dropped)),
        why, breaker)),
    h("div", { class: "card" }, messages.element));
}

function fields(asked) {
  const more = ["sender", "min", "max", "sample", "cut", "batch"].some((name) => asked[name] !== DEFAULTS[name]);
  return [
    h("div", { class: "form inline" },
      field("Patterns", input("patterns", { value: asked.patterns, spellcheck: "false", required: true }), "Channel ids, * and >, separated by spaces."),
      field("Show at most", select("rate", RATES, asked.rate))),
    patternHelp(),
    h("details", { class: "fold", open: more }, h("summary", {}, "Only some of them"),
      h("div", { class: "form inline" },
        field("From", input("sender", { value: asked.sender, spellcheck: "false", placeholder: "painter planner" }), "Ids of agents; people are user:id."),
        field("Bytes, at least", input("min", { type: "number", min: 0, value: asked.min })),
        field("Bytes, at most", input("max", { type: "number", min: 0, value: asked.max }))),
      h("div", { class: "form inline" },
        field("Sample", select("sample", SAMPLES, asked.sample)),
        field("Cut after", select("cut", CUTS, asked.cut)),
        h("div", { class: "field" }, checkbox("batch", "Several in one frame", asked.batch === "yes"), h("p", { class: "hint" }, "Less work for this browser.")))),
  ];
}

function patternHelp() {
  return h("details", { class: "fold" }, h("summary", {}, "How patterns work"),
    h("dl", { class: "facts" }, [
      [">", "everything"],
      ["team.updates", "this one channel"],
      ["team.*", "channels with exactly one more part after team."],
      ["team.>", "channels with one or more parts after team."],
      ["*.errors audit.>", "several patterns: what matches one of them"],
    ].map(([pattern, means]) => [h("dt", {}, h("code", {}, pattern)), h("dd", {}, means)])));
}

/** Return the command that asks the server for what the form says. */
function command({ patterns, rate, sender, min, max, sample, cut, batch }) {
  const where = {};
  if (split(sender).length) where.sender = split(sender);
  if (min || max) where.size = { ...(min && { min: Number(min) }), ...(max && { max: Number(max) }) };
  return {
    type: "subscribe_topic_preview",
    patterns: split(patterns),
    max_rate: Number(rate),
    sample: Number(sample),
    batch: batch === "yes",
    max_bytes: Number(cut),
    ...(Object.keys(where).length && { where }),
  };
}

/** What a rate is counted of. */
const watched = ({ patterns, sender, min, max }) => `preview ${JSON.stringify([split(patterns), split(sender), min, max])}`;

/** Return what is wrong, in the words of the form, with what the server would refuse; null where nothing is. */
function wrong({ patterns, sender, min, max }) {
  if (!split(patterns).length) return "Patterns: write > to see everything.";
  const pattern = split(patterns).find((each) => !PATTERN.test(each));
  if (pattern) return `Patterns: “${pattern}” is none. They are made of letters, digits, - and _, in parts joined by dots; a part may be *, and the last one >.`;
  const id = split(sender).find((each) => !SENDER.test(each));
  if (id) return `From: “${id}” is neither an agent's id nor user: and a person's.`;
  return min && max && Number(min) > Number(max) ? "Bytes: at least is more than at most." : null;
}

/** Say what is watched, in the server's own figures. */
function summary({ patterns, where, sample, max_rate: rate, max_bytes: cut }) {
  const { sender, size } = where ?? {};
  return [
    "Watching ",
    patterns.map((pattern, i) => [i > 0 && ", ", h("code", {}, pattern)]),
    sender && [" from ", h("code", {}, [sender].flat().join(" "))],
    size && ` with ${size.min ? `at least ${bytes(size.min)}` : ""}${size.min && size.max ? " and " : ""}${size.max ? `at most ${bytes(size.max)}` : ""}`,
    sample > 1 && `, one in ${number(sample)}`,
    `, at most ${number(rate)} messages a second${cut ? `, ${bytes(cut)} of each` : ""}.`,
  ];
}

/** Put what is watched into the address, so that it can be kept and sent; this page stays. */
function remember(wanted) {
  const changed = Object.entries(wanted).filter(([name, value]) => value !== DEFAULTS[name]);
  const search = new URLSearchParams(changed).toString();
  history.replaceState(null, "", `#/preview${search ? `?${search}` : ""}`);
}

const words = (state, reason) => (reason === "overload" && state !== "closed" ? OVERLOADED : STATES[state] ?? ["", ""]);
const split = (text) => text.split(/[\s,]+/).filter(Boolean);
