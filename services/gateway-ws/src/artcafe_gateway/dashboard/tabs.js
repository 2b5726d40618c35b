// One sign-in for all tabs of a person: handed from tab to tab, stored by none, so that it ends with the last of them.
//
// A BroadcastChannel reaches pages of this origin alone, in this browser profile alone: those that could read a tab's
// session storage anyway.

import { session } from "./session.js";

const CHANNEL = "artcafe-session";
// A tab that answers does so at once. Where it is late, the answer counts as long as nobody has signed in here.
const ANSWER_MS = 400;
const MORE_ANSWERS_MS = 60;
const RENEWAL = "artcafe-renewal";

const channel = new BroadcastChannel(CHANNEL);
let question = null;
let told = session.token;
let usedAt = Date.now();

for (const use of ["pointerdown", "keydown", "focus"]) {
  addEventListener(use, () => {
    usedAt = Date.now();
  }, true);
}

channel.addEventListener("message", ({ data: { ask, answer, state, usedAt: used, renewed, signedOut } }) => {
  if (ask && session.token) channel.postMessage({ answer: ask, state: session.handOut(), usedAt });
  if (answer && answer === question?.id) question.answered({ state, usedAt: used });
  if (renewed && isMine(renewed)) take(renewed);
  if (signedOut && isMine(signedOut)) session.signOut({ elsewhere: true });
});
session.addEventListener("changed", () => {
  if (session.token === told) return;
  told = session.token;
  channel.postMessage({ renewed: session.handOut() });
});
session.addEventListener("signed-out", ({ detail }) => {
  question = null;
  told = null;
  if (!detail.elsewhere) channel.postMessage({ signedOut: detail });
});

/** Be signed in as another tab is, and in the organisation of the one that was used last, if there is any. */
export async function askOtherTabs() {
  if (session.token) return;
  const found = await answers();
  if (!session.token && found.length) take(found.reduce(newer).state);
}

/** Renew the token by `act()`, unless another tab has meanwhile: a refresh token may hold but once. Returns what it returns, or true. */
export function renewOnce(act) {
  const before = session.token;
  const turn = async () => {
    if (session.token === before) for (const { state } of await answers()) if (isMine(state)) take(state);
    return session.token !== before || act();
  };
  return navigator.locks ? navigator.locks.request(RENEWAL, turn) : turn();
}

/** Return what other tabs answer. */
function answers() {
  return new Promise((resolve) => {
    const found = [];
    let overdue = false;
    question = {
      id: crypto.getRandomValues(new Uint32Array(4)).join("-"),
      answered: (answer) => {
        found.push(answer);
        if (found.length === 1) setTimeout(() => resolve(found), MORE_ANSWERS_MS);
        // Too late to be waited for, and yet better than to ask the person.
        if (!session.token && overdue) take(answer.state);
      },
    };
    setTimeout(() => {
      overdue = true;
      resolve(found);
    }, ANSWER_MS);
    channel.postMessage({ ask: question.id });
  });
}

function take(state) {
  told = state.token;
  session.takeOver(state);
}

const newer = (one, other) => (other.usedAt > one.usedAt ? other : one);
const isMine = ({ userId, issuer }) => Boolean(session.token) && userId === session.userId && issuer === session.issuer;
