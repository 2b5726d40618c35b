// All agents of the organisation and how they are: a snapshot over the socket, then each change.

import { get, path } from "./api.js";
import { changes } from "./changes.js";
import { socket, watch } from "./live.js";
import { session } from "./session.js";

const TOLD_MS = 60;
// Read one by one, or all anew where that is less to do.
const ONE_BY_ONE = 5;
const TOGETHER_MS = 150;
// Why a gateway says that an agent is offline which did not say goodbye.
const LOST = new Set(["did not come back", "heartbeat timeout", "its gateway ended"]);

/** Tells "changed" (at most once per frame of the screen). `complete` is false until the first snapshot. */
class Agents extends EventTarget {
  all = new Map();
  complete = false;
  error = null;
  #seen = null;
  #stop = null;
  #toRead = new Set();
  #reading = null;
  #told = false;
  #again = () => {};

  /** Watch the agents of the organisation that the session is in. */
  open() {
    this.close();
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    const begin = { type: "subscribe_agents" };
    const again = watch({
      begin,
      frame: (frame) => this.#frame(frame),
      failed: (error) => {
        this.error = error;
        this.#tell();
      },
      signal,
    });
    this.#again = () => again(begin);
    changes.addEventListener("changed", ({ detail }) => this.#changed(detail), { signal });
    changes.addEventListener("missed", () => this.refresh(), { signal });
  }

  /** Stop watching and forget. */
  close() {
    this.#stop?.abort();
    clearTimeout(this.#reading);
    this.#reading = null;
    this.#toRead.clear();
    this.all.clear();
    this.complete = false;
    this.error = null;
  }

  /** Ask for everything again. */
  refresh() {
    if (session.may("agents:read")) this.#again();
  }

  /**
   * Ask the gateways when agents were last heard of; returns their answer, which has those that are connected.
   *
   * Heartbeats are not told: whoever shows them asks, for at most 200 agents.
   */
  async look(ids) {
    if (!ids.length) return { sessions: [], complete: true };
    const answer = await socket.command({ type: "get_sessions", agents: ids });
    for (const { agent_id: id, last_seen: at } of answer.sessions) {
      const known = this.all.get(id);
      if (known) known.heardAt = latest(known.heardAt, at);
    }
    this.#tell();
    return answer;
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
    // A change of presence does not tell the name.
    if (!this.all.has(frame.agent_id) && !frame.snapshot) this.#read(frame.agent_id);
    this.#set(frame);
  }

  #set({ agent_id, snapshot, name, status, last_seen, timestamp, connected_at, reason, capabilities, metadata }) {
    // What is stored of an agent that is online is when it came, not when it was last heard of.
    const heardAt = snapshot && status === "online" ? null : last_seen;
    const known = this.all.get(agent_id);
    this.all.set(agent_id, {
      id: agent_id,
      name: name ?? known?.name ?? agent_id,
      status,
      lastSeen: last_seen ?? known?.lastSeen ?? null,
      heardAt: latest(known?.heardAt, heardAt),
      changedAt: timestamp ?? (known?.status === status ? known.changedAt : null),
      connectedAt: connected_at ?? null,
      reason: reason ?? "",
      capabilities: capabilities ?? known?.capabilities ?? [],
      metadata: metadata ?? known?.metadata ?? {},
    });
    this.#tell();
  }

  #changed({ kind, id, action }) {
    if (kind !== "agent") return;
    if (action !== "deleted") this.#read(id);
    else if (this.all.delete(id)) this.#tell();
  }

  #read(id) {
    this.#toRead.add(id);
    this.#reading ??= setTimeout(() => {
      this.#reading = null;
      const ids = [...this.#toRead];
      this.#toRead.clear();
      if (ids.length > ONE_BY_ONE) this.refresh();
      else for (const each of ids) this.#readOne(each);
    }, TOGETHER_MS);
  }

  async #readOne(id) {
    const { signal } = this.#stop;
    try {
      const agent = await get(path`/agents/${id}`, { signal });
      // It may be newer than the page of the snapshot that it would be on.
      this.#seen?.add(id);
      // Its presence is told by the socket, and is newer there.
      const known = this.all.get(id);
      if (known) Object.assign(known, { name: agent.name, capabilities: agent.capabilities, metadata: agent.metadata });
      else this.#set({ ...agent, snapshot: true });
    } catch (error) {
      if (!signal.aborted && error.code === "not_found") this.all.delete(id);
    }
    if (!signal.aborted) this.#tell();
  }

  #tell() {
    if (this.#told) return;
    this.#told = true;
    setTimeout(() => {
      this.#told = false;
      this.dispatchEvent(new Event("changed"));
    }, TOLD_MS);
  }
}

/** The later of two times, of which either may be missing. */
function latest(one, other) {
  if (!one || !other) return one ?? other ?? null;
  return new Date(one) > new Date(other) ? one : other;
}

/** Tell whether an agent went away without a goodbye. */
export const isLost = (agent) => agent.status === "offline" && LOST.has(agent.reason);

export const agents = new Agents();
