// REST: one function per method, problem documents as errors, a new token where the old one has ended.

import { parse } from "./exact.js";
import { session } from "./session.js";

const SECONDS = 15;
const PAGE = 100;

/** A request that failed; `code` is the platform's word for it ("not_found", "unavailable"...). */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? `The server answered ${status}.`);
    this.name = "Problem";
    this.status = status;
    this.code = body.code ?? "internal";
    this.instance = body.instance;
    if (status === 402) this.message = `${this.message} (plan ${body.plan}: ${body.current} of ${body.limit})`;
  }
}

export const get = (path, options) => request("GET", path, options);
export const post = (path, body, options) => request("POST", path, { ...options, body });
export const put = (path, body, options) => request("PUT", path, { ...options, body });
export const remove = (path, options) => request("DELETE", path, options);

/** Return all items of a list, page by page; at most `most`. */
export async function list(path, key, { query = {}, most = 1000, signal } = {}) {
  const items = [];
  let next;
  do {
    const page = await get(path, { query: { limit: PAGE, ...query, next_token: next }, signal });
    items.push(...page[key]);
    next = page.next_token;
  } while (next && items.length < most);
  return { items, more: Boolean(next) };
}

/** Return a path with its parts encoded. */
export function path(strings, ...parts) {
  return String.raw({ raw: strings }, ...parts.map(encodeURIComponent));
}

async function request(method, path, { query = {}, body, signal, anonymous = false } = {}) {
  const answer = await send(method, path, { query, body, signal, anonymous });
  if (answer.status !== 401 || anonymous) return result(answer, signal);
  await session.renew();
  return result(await send(method, path, { query, body, signal, anonymous }), signal);
}

async function send(method, path, { query, body, signal, anonymous }) {
  const url = new URL(`/api/v1${path}`, location.origin);
  // An id of "." or ".." makes another address of it: what was meant for one thing would reach what it is in.
  if (url.pathname !== `/api/v1${path}`) throw new Problem(400, { code: "invalid_argument", detail: "This id cannot be part of an address." });
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, value);
  }
  const headers = {};
  if (!anonymous) headers.Authorization = `Bearer ${session.token}`;
  if (!anonymous && session.tenant) headers["X-Tenant-Id"] = session.tenant.id;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const deadline = AbortSignal.timeout(SECONDS * 1000);
  try {
    return await fetch(url, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
      credentials: "omit",
      cache: "no-store",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(503, { code: "unavailable", detail: "The server cannot be reached." });
  }
}

async function result(answer, signal) {
  if (answer.status === 204) return null;
  let body = {};
  try {
    body = parse(await answer.text());
  } catch {
    if (signal?.aborted) throw signal.reason;
    // A refusal on the way may be none of ours; what was carried out, however, is said by us.
    if (answer.ok) throw new Problem(503, { code: "unavailable", detail: "The answer was cut off." });
  }
  if (!answer.ok) throw new Problem(answer.status, body);
  return body;
}
