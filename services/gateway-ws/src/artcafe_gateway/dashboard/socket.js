// The live socket: connects, proves itself, comes back by itself, and says how it is.

import { parse } from "./exact.js";
import { number } from "./format.js";
import { session } from "./session.js";

const FIRST_WAIT_SECONDS = 0.5;
const LONGEST_WAIT_SECONDS = 20;
const OPEN_SECONDS = 10;
const QUIET_SECONDS = 20;
const PONG_SECONDS = 8;
const TOKEN_EXPIRED = 4005;
// 4500 to 4999: coming back unchanged does not help (docs/protocol.md).
const isFinal = (code) => code >= 4500 && code <= 4999;

const REASONS = {
  4001: "the connection was silent for too long",
  4002: "this browser did not keep up",
  4003: "the server is not ready",
  4004: "too many connections or commands",
  4005: "the session has expired",
  4500: "the server does not accept this sign-in",
  4501: "access was taken away",
  4502: "the organisation is suspended",
  4503: "the server did not understand this page: reload it",
  4504: "the plan allows no more connections",
};

/**
 * Tells "state" on each change of `state` ({name, reason, retryAt, lostAt, silentSince}), "connected" with the
 * server's greeting, "silent" and "heard" with `{seconds}` when the message bus behind the server went away and came
 * back, and "frame" with each event but the greeting.
 *
 * Names: "off", "connecting", "live", "waiting" (to try again at `retryAt`), "stopped" (for `reason`).
 */
export class LiveSocket extends EventTarget {
  state = { name: "off" };
  #socket = null;
  #wanted = false;
  #failures = 0;
  #lostAt = null;
  #timers = new Map();
  #waiting = new Map();
  #lastId = 0;
  #refusal = null;
  #mostBytes = Infinity;

  constructor() {
    super();
    for (const change of ["online", "offline"]) addEventListener(change, () => this.#doubt());
    document.addEventListener("visibilitychange", () => document.hidden || this.#doubt());
  }

  /** Whether messages come as they are sent: the connection is there, and the message bus behind it. */
  get hears() {
    return this.state.name === "live" && !this.state.silentSince;
  }

  /** Connect, and stay connected. */
  open() {
    this.#wanted = true;
    this.#failures = 0;
    this.#lostAt = null;
    this.#connect();
  }

  /** Disconnect and stay so. */
  close() {
    this.#wanted = false;
    this.#drop(1000);
    this.#become({ name: "off" });
  }

  /** Do not wait any longer for the next try. */
  hurry() {
    if (this.#wanted && (this.state.name === "waiting" || this.state.name === "stopped")) this.#connect();
  }

  /** Send a command and return its answer; rejects where it is refused or the connection ends before. */
  command(frame) {
    if (this.state.name !== "live") return Promise.reject(new Error("There is no connection right now."));
    this.#lastId += 1;
    const id = this.#lastId;
    const text = JSON.stringify({ ...frame, id });
    const size = new TextEncoder().encode(text).length;
    // It would cost the connection.
    if (size > this.#mostBytes) return Promise.reject(new Error(`That is too large: ${number(size)} bytes in all, of at most ${number(this.#mostBytes)}.`));
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#socket.send(text);
    });
  }

  #connect() {
    this.#drop(1000);
    this.#become({ name: "connecting", lostAt: this.#lostAt });
    const address = new URL("/ws/dashboard", location.origin);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.#refusal = null;
    const socket = new WebSocket(address);
    this.#socket = socket;
    socket.addEventListener("open", () => {
      // Not in the address: that is written into logs.
      socket.send(JSON.stringify({ type: "authenticate", token: session.token, tenant_id: session.tenant.id }));
    });
    socket.addEventListener("message", ({ data }) => {
      if (socket === this.#socket) this.#heard(parse(data));
    });
    socket.addEventListener("close", ({ code, reason }) => {
      if (socket === this.#socket) this.#lost(code, reason);
    });
    this.#later("alive", OPEN_SECONDS, () => this.#lost(1006, ""));
  }

  #heard(frame) {
    this.#watch();
    if (frame.type === "connected") {
      this.#failures = 0;
      const lostAt = this.#lostAt;
      this.#lostAt = null;
      this.#mostBytes = frame.limits?.frame_bytes ?? Infinity;
      session.allow(frame.role, frame.permissions);
      this.#become({ name: "live", since: Date.now() });
      this.dispatchEvent(new CustomEvent("connected", { detail: { ...frame, lostAt } }));
      return;
    }
    if (frame.type === "service_status") this.#bus(frame.status === "ok");
    // Why a sign-in is refused comes before the close, whose code says less.
    if (frame.type === "error" && this.state.name === "connecting") this.#refusal = frame.code;
    const waiting = this.#waiting.get(frame.id);
    if (waiting) {
      this.#waiting.delete(frame.id);
      if (frame.type === "error") waiting.reject(Object.assign(new Error(frame.message), { code: frame.code }));
      else waiting.resolve(frame);
    }
    this.dispatchEvent(new CustomEvent("frame", { detail: frame }));
  }

  #bus(there) {
    const { silentSince, ...live } = this.state;
    if (live.name !== "live" || there === !silentSince) return;
    this.#become(there ? live : { ...live, silentSince: Date.now() });
    const seconds = there ? (Date.now() - silentSince) / 1000 : 0;
    this.dispatchEvent(new CustomEvent(there ? "heard" : "silent", { detail: { seconds } }));
  }

  /** A browser does not show the server's pings to the page: ask where nothing was heard for a while. */
  #watch() {
    this.#later("alive", QUIET_SECONDS, () => this.#ask());
  }

  #ask() {
    this.#socket?.send(JSON.stringify({ type: "ping" }));
    this.#later("alive", PONG_SECONDS, () => this.#lost(1006, ""));
  }

  /** The network has changed, or the machine has slept: a connection that was there may be gone unnoticed. */
  #doubt() {
    if (this.state.name === "live") this.#ask();
    else this.hurry();
  }

  #lost(code, said) {
    this.#drop(1000);
    if (!this.#wanted) return;
    this.#lostAt ??= this.state.silentSince ?? Date.now();
    const reason = said || REASONS[code] || "";
    if (code === TOKEN_EXPIRED || this.#refusal === "unauthenticated") {
      this.#become({ name: "stopped", reason: "the session has expired", code, lostAt: this.#lostAt });
      session.renew().then(() => this.hurry(), () => {});
      return;
    }
    if (isFinal(code)) {
      this.#become({ name: "stopped", reason, code, lostAt: this.#lostAt });
      return;
    }
    const ceiling = Math.min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** this.#failures);
    // A random share of it: many dashboards lose their connections at the same moment.
    const seconds = ceiling * (0.3 + 0.7 * Math.random());
    this.#failures += 1;
    this.#become({ name: "waiting", reason, retryAt: Date.now() + seconds * 1000, lostAt: this.#lostAt });
    this.#later("retry", seconds, () => this.#connect());
  }

  #drop(code) {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(code);
    for (const { reject } of this.#waiting.values()) reject(new Error("The connection was lost before the answer came."));
    this.#waiting.clear();
  }

  #later(name, seconds, act) {
    clearTimeout(this.#timers.get(name));
    this.#timers.set(name, setTimeout(act, seconds * 1000));
  }

  #become(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}
