// Sign in at an OpenID Connect provider: authorization code with PKCE (RFC 7636), nothing kept but for this tab.

import { claimsOf, session } from "./session.js";
import { renewOnce } from "./tabs.js";

const PENDING = "artcafe.sign-in";
const CHANNEL = "artcafe-sign-in";
const REDIRECT = `${location.origin}/`;
const ANSWER_SECONDS = 2;

/** Leave for the provider; it sends the person back with a code. */
export async function leaveFor(issuer) {
  const pending = await begin(issuer);
  sessionStorage.setItem(PENDING, JSON.stringify({ ...pending, page: location.hash }));
  location.assign(authorizationUrl(issuer, pending));
}

/**
 * Finish a sign-in where the address holds a code, and take that out of the address.
 *
 * Returns true where this window was opened by another tab, which finishes instead.
 */
export async function arrive(config) {
  const answer = new URLSearchParams(location.search);
  if (!answer.has("state")) return false;
  const pending = JSON.parse(sessionStorage.getItem(PENDING) ?? "null");
  sessionStorage.removeItem(PENDING);
  history.replaceState(null, "", `/${pending?.page ?? ""}`);
  if (pending?.state === answer.get("state")) await finish(config, pending, answer);
  else if (await handOver(answer)) return true;
  else if (!session.token) throw new Error("That sign-in was not begun in this tab, or is over already: sign in again.");
  return false;
}

/** Get a new token with the refresh token; returns false where that does not work. */
export async function renewSilently(config) {
  if (!session.refreshToken) return false;
  try {
    return await renewOnce(async () => {
      await exchange(issuerNamed(config, session.issuer), { grant_type: "refresh_token", refresh_token: session.refreshToken });
      return true;
    });
  } catch {
    return false;
  }
}

/** Sign in again in another window; to be called from a click, or the browser does not open it. */
export async function renewInWindow(config, signal) {
  const issuer = issuerNamed(config, session.issuer);
  const opened = window.open("about:blank", "_blank", "popup,width=520,height=720");
  const pending = await begin(issuer);
  if (!opened) throw new Error("The browser did not open a window: allow pop-ups for this page.");
  const channel = new BroadcastChannel(CHANNEL);
  try {
    opened.location = authorizationUrl(issuer, pending);
    const answer = await new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
      channel.addEventListener("message", ({ data }) => {
        if (data.answer === undefined) return;
        const found = new URLSearchParams(data.answer);
        if (found.get("state") !== pending.state) return;
        channel.postMessage({ taken: pending.state });
        resolve(found);
      });
    });
    await finish(config, pending, answer);
  } finally {
    channel.close();
  }
}

/** Leave for the provider's sign-out page, where it has one. */
export function leaveProvider(config, issuerName) {
  const issuer = config?.issuers.find((known) => known.issuer === issuerName);
  if (!issuer?.end_session_endpoint) return false;
  const url = new URL(issuer.end_session_endpoint);
  url.searchParams.set("client_id", issuer.client_id);
  url.searchParams.set("post_logout_redirect_uri", REDIRECT);
  // Amazon Cognito's own name for the same.
  url.searchParams.set("logout_uri", REDIRECT);
  location.assign(url);
  return true;
}

async function begin(issuer) {
  // Browsers offer none of it to a page that came over http from another machine.
  if (!crypto.subtle) throw new Error("An identity provider can only be used from a page that came over https.");
  const verifier = random();
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier));
  return { issuer: issuer.issuer, verifier, challenge: base64url(new Uint8Array(digest)), state: random(), nonce: random() };
}

function authorizationUrl(issuer, pending) {
  const url = new URL(issuer.authorization_endpoint);
  const query = {
    response_type: "code",
    client_id: issuer.client_id,
    redirect_uri: REDIRECT,
    scope: issuer.scopes.join(" "),
    state: pending.state,
    nonce: pending.nonce,
    code_challenge: pending.challenge,
    code_challenge_method: "S256",
  };
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  return url.href;
}

async function finish(config, pending, answer) {
  // RFC 9207: an answer of another provider than was asked is refused.
  const from = answer.get("iss");
  if (from && from !== pending.issuer) throw new Error("The answer came from another identity provider.");
  if (answer.has("error")) throw new Error(answer.get("error_description") ?? answer.get("error"));
  const fields = {
    grant_type: "authorization_code",
    code: answer.get("code"),
    redirect_uri: REDIRECT,
    code_verifier: pending.verifier,
  };
  await exchange(issuerNamed(config, pending.issuer), fields, pending.nonce);
}

async function exchange(issuer, fields, nonce = null) {
  const body = new URLSearchParams({ client_id: issuer.client_id, ...fields });
  const answer = await fetch(issuer.token_endpoint, { method: "POST", body, credentials: "omit", cache: "no-store" }).catch(() => {
    throw new Error(`${new URL(issuer.token_endpoint).host} cannot be reached, or does not allow this page to ask for a token.`);
  });
  const tokens = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(tokens.error_description ?? "The identity provider did not hand out a token.");
  const token = tokens.id_token ?? tokens.access_token;
  if (nonce && tokens.id_token && claimsOf(token).nonce !== nonce) throw new Error("The token belongs to another sign-in.");
  // Providers that do not hand out a new refresh token mean the old one to stay.
  const refreshToken = tokens.refresh_token ?? fields.refresh_token ?? null;
  session.signIn(token, { issuer: issuer.issuer, userPrefix: issuer.user_prefix, refreshToken });
}

/** Give an answer to the tab that waits for it; returns whether one took it. */
function handOver(answer) {
  const channel = new BroadcastChannel(CHANNEL);
  return new Promise((resolve) => {
    const stop = (taken) => {
      channel.close();
      resolve(taken);
    };
    channel.addEventListener("message", ({ data }) => {
      if (data.taken === answer.get("state")) stop(true);
    });
    channel.postMessage({ answer: answer.toString() });
    setTimeout(() => stop(false), ANSWER_SECONDS * 1000);
  });
}

function issuerNamed(config, name) {
  const issuer = config.issuers.find((known) => known.issuer === name);
  if (!issuer) throw new Error("The identity provider is no longer in use here.");
  return issuer;
}

function random() {
  return base64url(crypto.getRandomValues(new Uint8Array(32)));
}

function base64url(data) {
  return btoa(String.fromCharCode(...data)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
