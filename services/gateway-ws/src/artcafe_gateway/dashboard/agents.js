// All agents of the organisation and how they are: a snapshot over the socket, then each change.

import { watch } from "./live.js";
import { session } from "./session.js";

const LOOK_AGAIN_SECONDS = 15;
// The more agents, the more a snapshot weighs and the rarer it is asked for.
const AGENTS_PER_SECOND = 50;

/** Tells "changed" (at most once per frame of the screen). `complete` is false until the first snapshot. */
class Agents extends EventTarget {
  all = new Map();
  complete = false;
  error = null;
  #seen = null;
  #stop = null;
  #timer = null;
  #told = false;
  #again = () => {};

  /** Watch the agents of the organisation that the session is in. */
  open() {
    this.close();
    this.#stop = new AbortController();
    const begin = { type: "subscribe_agents" };
    const again = watch({
      begin,
      frame: (frame) => this.#frame(frame),
      failed: (error) => {
        this.error = error;
        this.#tell();
      },
      signal: this.#stop.signal,
    });
    this.#again = () => again(begin);
    this.#lookAgain();
  }

  /** Stop watching and forget. */
  close() {
    this.#stop?.abort();
    clearTimeout(this.#timer);
    this.all.clear();
    this.complete = false;
    this.error = null;
  }

  /** Ask for everything again: the socket does not tell of agents that are made or deleted. */
  refresh() {
    if (session.may("agents:read")) this.#again();
    this.#lookAgain();
  }

  #lookAgain() {
    clearTimeout(this.#timer);
    const seconds = Math.max(LOOK_AGAIN_SECONDS, this.all.size / AGENTS_PER_SECOND);
    this.#timer = setTimeout(() => {
      if (!document.hidden) this.refresh();
      else document.addEventListener("visibilitychange", () => this.refresh(), { once: true, signal: this.#stop.signal });
    }, seconds * 1000);
  }

  #frame(frame) {
    if (frame.type === "subscription_confirmed" && frame.subscription === "agents") this.#seen = new Set();
    if (frame.type === "agents_snapshot_complete" && this.#seen) {
      for (const id of this.all.keys()) if (!this.#seen.has(id)) this.all.delete(id);
      this.#seen = null;
      this.complete = true;
      this.error = null;
      this.#tell();
    }
    if (frame.type !== "agent_status") return;
    this.#seen?.add(frame.agent_id);
    const known = this.all.get(frame.agent_id);
    // A change does not tell the name; whoever is new is asked for with the next snapshot.
    if (!known && !frame.snapshot) setTimeout(() => this.refresh(), 500);
    const { agent_id, name, status, last_seen, capabilities, metadata } = frame;
    this.all.set(agent_id, {
      id: agent_id,
      name: name ?? known?.name ?? agent_id,
      status,
      lastSeen: last_seen ?? frame.timestamp ?? known?.lastSeen ?? null,
      capabilities: capabilities ?? known?.capabilities ?? [],
      metadata: metadata ?? known?.metadata ?? {},
    });
    this.#tell();
  }

  #tell() {
    if (this.#told) return;
    this.#told = true;
    setTimeout(() => {
      this.#told = false;
      this.dispatchEvent(new Event("changed"));
    }, 60);
  }
}

export const agents = new Agents();
