// The live socket: connects, proves itself, comes back by itself, and says how it is.

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
 * Tells "state" on each change of `state` ({name, reason, retryAt, lostAt}), "connected" with the server's
 * greeting, and "frame" with each other event.
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

  constructor() {
    super();
    addEventListener("online", () => this.hurry());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.hurry();
    });
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
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#socket.send(JSON.stringify({ ...frame, id }));
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
      if (socket === this.#socket) this.#heard(JSON.parse(data));
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
      session.allow(frame.role, frame.permissions);
      this.#become({ name: "live", since: Date.now() });
      this.dispatchEvent(new CustomEvent("connected", { detail: { ...frame, lostAt } }));
      return;
    }
    // Why a sign-in is refused comes before the close, whose code says less.
    if (frame.type === "error" && this.state.name === "connecting") this.#refusal = frame.code;
    const waiting = this.#waiting.get(frame.id);
    if (waiting) {
      this.#waiting.delete(frame.id);
      if (frame.type === "error") waiting.reject(new Error(frame.message));
      else waiting.resolve(frame);
    }
    this.dispatchEvent(new CustomEvent("frame", { detail: frame }));
  }

  /** A browser does not show the server's pings to the page: ask where nothing was heard for a while. */
  #watch() {
    this.#later("alive", QUIET_SECONDS, () => {
      this.#socket?.send(JSON.stringify({ type: "ping" }));
      this.#later("alive", PONG_SECONDS, () => this.#lost(1006, ""));
    });
  }

  #lost(code, said) {
    this.#drop(1000);
    if (!this.#wanted) return;
    this.#lostAt ??= Date.now();
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
