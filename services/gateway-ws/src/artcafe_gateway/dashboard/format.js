// How numbers, sizes and times are written.

const numbers = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const tenths = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const hundredths = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const significant = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const moments = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const ago = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const UNITS = [["day", 86_400], ["hour", 3600], ["minute", 60], ["second", 1]];
const SIZES = ["B", "KB", "MB", "GB", "TB"];

/** 12,345 */
export const number = (value) => numbers.format(value);

/** 12.3K, 0.025 */
export const short = (value) => (value < 1 ? significant : compact).format(value);

/** 1.5 MB (of 1000 bytes each step) */
export function bytes(value) {
  let step = 0;
  let size = value;
  while (size >= 1000 && step < SIZES.length - 1) {
    size /= 1000;
    step += 1;
  }
  return `${step ? size.toFixed(1) : size} ${SIZES[step]}`;
}

/** 12,345.6, 2.34, 0.03, under 0.01: so many seconds in hours */
export function hours(seconds) {
  const value = seconds / 3600;
  if (value > 0 && value < 0.01) return "under 0.01";
  return (value < 10 ? hundredths : tenths).format(value);
}

/** 14:03:07, local */
export const time = (text) => clock.format(new Date(text));

/** 3 Mar 2026, 14:03, local */
export const moment = (text) => moments.format(new Date(text));

/** 5 minutes ago */
export function since(text, now = Date.now()) {
  const seconds = Math.min(0, Math.round((new Date(text).getTime() - now) / 1000));
  const [unit, size] = UNITS.find(([, each]) => -seconds >= each) ?? ["second", 1];
  return ago.format(Math.trunc(seconds / size), unit);
}

/** 3 agents, 1 agent */
export const count = (value, one, many = `${one}s`) => `${number(value)} ${value === 1 ? one : many}`;

/** 3 d 4 h, 4 h 5 min, 5 min, 12 s: how long it has been since then. */
export function span(text, now = Date.now()) {
  const seconds = Math.max(0, Math.floor((now - new Date(text).getTime()) / 1000));
  const days = Math.floor(seconds / 86_400);
  const hours = Math.floor(seconds / 3600) % 24;
  const minutes = Math.floor(seconds / 60) % 60;
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${seconds} s`;
}

/** Return today as usage counts it: the day in UTC, as `2026-01-31`. */
export const utcDay = () => new Date().toISOString().slice(0, 10);
