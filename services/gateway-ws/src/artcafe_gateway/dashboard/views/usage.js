// Usage: by day or hour, by agent or channel, as chart, table and file.

import { get } from "../api.js";
import { bytes, count, hours, number, short, utcDay } from "../format.js";
import { poll } from "../polling.js";
import { session } from "../session.js";
import { barChart, meter, SERIES } from "../ui/chart.js";
import { download } from "../ui/copy.js";
import { h, replace } from "../ui/dom.js";
import { field, input, select } from "../ui/form.js";
import { keep } from "../ui/keep.js";
import { table } from "../ui/table.js";

const SECONDS = 30;
const DAY_MS = 86_400_000;
const DAYS_BY_HOUR = 7;
const DAYS_BY_DAY = 92;
const MONTHS = 12;
// How each is called, written, written at the axis of the chart, and how many make one there.
const MEASURES = {
  messages: ["Messages", number, short],
  deliveries: ["Deliveries", number, short],
  bytes: ["Data", bytes, bytes],
  api_calls: ["API calls", number, short],
  connection_seconds: ["Connected hours", hours, short, 3600],
};
const FIELDS = ["messages", "deliveries", "bytes_in", "bytes_out", "api_calls", "connection_seconds"];

export function usageView({ signal }) {
  let today = utcDay();
  const from = input("from", { type: "date", value: daysBefore(today, 29), max: today });
  const to = input("to", { type: "date", value: today, max: today });
  const by = select("by", [["day", "Day"], ["hour", "Hour"], ["month", "Month"]], "day");
  const group = select("group", [["", "Nothing"], ["agent", "Agent"], ["channel", "Channel"]], "");
  const measure = select("measure", Object.entries(MEASURES).map(([key, [name]]) => [key, name]), "messages");
  const month = h("div", {});
  const chart = h("div", {});
  const groups = h("div", {});
  const periods = h("div", {});
  const problem = h("p", { class: "problem", role: "alert" });
  const save = h("button", { type: "button", disabled: true }, "Download CSV");
  let reply = null;
  let drawn = "";

  const ask = async () => {
    followDay();
    if (!from.value || !to.value) throw new Error("Choose a day in “From” and in “To”.");
    const query = { start_date: from.value, end_date: to.value, granularity: by.value, group_by: group.value };
    return get("/usage/metrics", { query, signal });
  };
  const again = poll(ask, { seconds: SECONDS, signal, show, failed: unread });
  poll(() => get("/usage/current", { signal }), { seconds: SECONDS, signal, show: showMonth, failed: (error) => replace(month, h("p", { class: "problem" }, said(error))) });

  /** A page that is open at midnight goes on with the new day, where it showed the one that has ended. */
  function followDay() {
    const day = utcDay();
    if (day === today) return;
    from.max = to.max = day;
    if (to.value === today) to.value = day;
    today = day;
  }

  function show(found) {
    reply = found;
    save.disabled = false;
    replace(problem);
    drawChart();
    keep(groups, reply.totals.groups && h("section", { class: "card" }, h("h2", {}, `By ${reply.group_by}`), groupTable(reply)));
    keep(periods, periodTable(reply));
  }

  /** What is shown of another range than the fields say would be taken for that of the fields. */
  function unread(error) {
    replace(problem, said(error));
    if (!reply || (reply.start_date === from.value && reply.end_date === to.value && reply.granularity === by.value && (reply.group_by ?? "") === group.value)) return;
    reply = null;
    drawn = "";
    save.disabled = true;
    for (const part of [chart, groups, periods]) replace(part);
  }

  function drawChart() {
    const same = JSON.stringify([reply, measure.value]);
    if (same === drawn) return;
    drawn = same;
    const [name, format, axis, unit = 1] = MEASURES[measure.value];
    const largest = largestGroups(reply, measure.value);
    const divided = reply.metrics.map((period) => partsOf(period, reply.group_by, largest, measure.value));
    const others = largest.length > 0 && divided.some((parts) => parts.at(-1) > 0);
    replace(chart, barChart({
      name: `${name} by ${reply.granularity}${largest.length ? ` and ${reply.group_by}` : ""}, ${number(reply.metrics.length)} bars; the table below holds the same`,
      names: others ? [...largest, "all others"] : largest,
      bars: reply.metrics.map((period, i) => {
        const parts = divided[i];
        const told = [format(period[measure.value]), ...largest.map((id, nth) => `${id}: ${format(parts[nth])}`)];
        return {
          label: label(period.start, reply.granularity, reply.start_date !== reply.end_date),
          title: `${period.start.slice(0, 16).replace("T", " ")} UTC: ${told.join("\n")}`,
          parts: parts.map((part) => part / unit),
        };
      }),
      format: axis,
    }));
  }

  function showMonth(current) {
    replace(
      month,
      meter("Messages this month", current.usage.messages, current.limits.messages_per_month, number),
      h("p", { class: "hint" }, `${count(current.today.messages, "message")} today; ${count(current.usage.active_agents, "agent")} and ${count(current.usage.active_channels, "channel")} active this month. Plan ${current.plan ?? "unknown"}; months and days are UTC.`),
    );
  }

  for (const control of [from, to, by, group]) {
    control.addEventListener("change", () => {
      if (control === by && to.value) from.value = fitting(by.value, from.value, to.value);
      again();
    });
  }
  measure.addEventListener("change", () => reply && show(reply));
  save.addEventListener("click", () => download(fileName(reply), csv(reply), "text/csv"));

  return h("section", {},
    h("div", { class: "title" }, h("h1", {}, "Usage"), save),
    h("section", { class: "card" }, h("h2", {}, "This month"), month),
    h("section", { class: "card" },
      h("div", { class: "form inline" }, field("From", from), field("To", to), field("Divide by", by), field("Group by", group), field("Show", measure)),
      problem, chart),
    groups,
    h("section", { class: "card" }, h("h2", {}, "Table"), periods));
}

function groupTable(reply) {
  if (!reply.totals.groups.length) return h("p", { class: "hint" }, "Nothing in this range.");
  const key = `${reply.group_by}_id`;
  return table(`Usage by ${reply.group_by}`, [[reply.group_by === "agent" ? "Agent" : "Channel"], ["Messages", "right"], ["Deliveries", "right"], ["Data", "right"]],
    reply.totals.groups.map((each) => [link(reply.group_by, each[key]), number(each.messages), number(each.deliveries), bytes(each.bytes)]));
}

function link(kind, id) {
  if (id.startsWith("user:")) return h("span", {}, "a person ", h("code", { class: "break" }, id));
  return session.may(`${kind}s:read`) ? h("a", { href: `#/${kind}s/${encodeURIComponent(id)}` }, id) : h("code", { class: "break" }, id);
}

function periodTable(reply) {
  const columns = [[`${reply.granularity === "hour" ? "Hour" : reply.granularity === "day" ? "Day" : "Month"} (UTC)`], ["Messages", "right"], ["Deliveries", "right"], ["Data", "right"], ["API calls", "right"], ["Connected h", "right"]];
  const used = [...reply.metrics].reverse().filter((period) => FIELDS.some((name) => period[name]));
  if (!used.length) return h("p", { class: "hint" }, "Nothing in this range.");
  const cells = (period) => [number(period.messages), number(period.deliveries), bytes(period.bytes), number(period.api_calls), hours(period.connection_seconds)];
  return table("Usage by period", columns, [
    [h("strong", {}, "All"), ...cells(reply.totals)],
    ...used.map((period) => [period.start.slice(0, reply.granularity === "hour" ? 16 : reply.granularity === "day" ? 10 : 7).replace("T", " "), ...cells(period)]),
  ]);
}

/** The groups that get a colour of their own. */
function largestGroups(reply, measure) {
  const groups = (reply.totals.groups ?? []).filter((group) => group[measure] > 0);
  return groups.sort((a, b) => b[measure] - a[measure]).slice(0, SERIES - 1).map((group) => group[`${reply.group_by}_id`]);
}

/** What each of the largest groups has of a period, and last all others together. */
function partsOf(period, by, largest, measure) {
  const parts = largest.map((id) => (period.groups ?? []).find((group) => group[`${by}_id`] === id)?.[measure] ?? 0);
  return [...parts, Math.max(0, period[measure] - parts.reduce((sum, part) => sum + part, 0))];
}

/** One line per period; with groups one per period and agent or channel. */
function csv(reply) {
  const key = reply.group_by && `${reply.group_by}_id`;
  const head = ["start", "end", ...(key ? [key] : []), ...FIELDS];
  const lines = reply.metrics.flatMap((period) =>
    (key ? period.groups : [{}]).map((part) => [period.start, period.end, ...(key ? [part[key]] : []), ...FIELDS.map((name) => (key ? part : period)[name])]));
  return [head, ...lines].map((cells) => cells.map(quoted).join(",")).join("\r\n") + "\r\n";
}

/** RFC 4180; text that a spreadsheet would take for a formula is marked as text. */
function quoted(value) {
  const text = typeof value === "string" && /^[=+\-@]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** What a request was refused for, in the words of the fields. */
const said = (error) => error.message.replaceAll("start_date", "“From”").replaceAll("end_date", "“To”");

const fileName = (reply) => `usage-${reply.tenant_id}-${reply.start_date}-${reply.end_date}.csv`;
const daysBefore = (day, days) => new Date(Date.parse(day) - days * DAY_MS).toISOString().slice(0, 10);

/** Where a range begins that is now divided otherwise: of hours and days not too many, of months whole ones. */
function fitting(by, from, to) {
  const days = (Date.parse(to) - Date.parse(from)) / DAY_MS + 1;
  if (by === "hour") return days > DAYS_BY_HOUR ? daysBefore(to, 1) : from;
  if (by === "day") return days < DAYS_BY_HOUR || days > DAYS_BY_DAY ? daysBefore(to, 29) : from;
  const first = new Date(to);
  first.setUTCMonth(first.getUTCMonth() - MONTHS + 1, 1);
  return first.toISOString().slice(0, 10);
}

/** What is written below a column; hours say their day where the range `spans` several. */
function label(start, granularity, spans) {
  if (granularity === "hour") return start.slice(spans ? 5 : 11, 16).replace("T", " ");
  return granularity === "month" ? start.slice(0, 7) : start.slice(5, 10);
}
