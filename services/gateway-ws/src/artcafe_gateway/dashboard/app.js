// The beginning: sign in, choose an organisation, then its pages.

import { agents } from "./agents.js";
import { alerts } from "./alerts.js";
import { get } from "./api.js";
import { changes } from "./changes.js";
import { socket } from "./live.js";
import { arrive, leaveProvider } from "./oidc.js";
import { watchToken } from "./renewal.js";
import { Router } from "./router.js";
import { session } from "./session.js";
import { shell } from "./shell.js";
import { askOtherTabs } from "./tabs.js";
import { h, replace } from "./ui/dom.js";
import { closeDialogs } from "./ui/form.js";
import { forgetRates } from "./ui/rate.js";
import { agentView } from "./views/agent.js";
import { agentsView } from "./views/agents.js";
import { channelView } from "./views/channel.js";
import { channelsView } from "./views/channels.js";
import { organisationsView } from "./views/organisations.js";
import { overviewView } from "./views/overview.js";
import { peopleView } from "./views/people.js";
import { previewView } from "./views/preview.js";
import { signInView } from "./views/signin.js";
import { usageView } from "./views/usage.js";

const may = (permission) => () => session.may(permission);
const ROUTES = [
  { path: "/overview", view: overviewView, may: may("agents:read") },
  { path: "/agents", view: agentsView, may: may("agents:read") },
  { path: "/agents/:id", view: agentView, may: may("agents:read") },
  { path: "/channels", view: channelsView, may: may("channels:read") },
  { path: "/channels/:id", view: channelView, may: may("channels:read") },
  { path: "/preview", view: previewView, may: may("messages:read") },
  { path: "/usage", view: usageView, may: may("usage:read") },
  { path: "/people", view: peopleView, may: may("members:read") },
  { path: "/none", view: nothingView, may: () => true },
];

const root = document.getElementById("app");
let place = null;
let leave = new AbortController();

const router = new Router(
  ROUTES,
  () => ROUTES.find((route) => route.may()).path,
  (path) => place?.moved(path),
);

let known = null;
/** How people sign in here; asked until it is known. */
async function config() {
  known ??= await get("/auth/config", { anonymous: true });
  return known;
}

/** Show what belongs to the state of the session. */
function show({ changing = false } = {}) {
  leave.abort();
  leave = new AbortController();
  router.close();
  place = null;
  socket.close();
  agents.close();
  changes.close();
  alerts.clear();
  forgetRates();
  // Another tab was signed in all the same.
  if (session.token) delete root.dataset.problem;
  if (!session.token) replace(root, signInView({ config, signal: leave.signal }));
  else if (!session.tenant) replace(root, organisationsView({ signal: leave.signal, changing, chosen: show }));
  else enter();
}

/** Connect; what the person may do here comes with the greeting, and the pages after that. */
function enter() {
  place = shell({ signal: leave.signal, change: changeOrganisation });
  replace(root, place.element);
  changes.open();
  agents.open();
  socket.open();
}

function changeOrganisation() {
  // The same page of another organisation would mostly be about something that is not there.
  history.replaceState(null, "", "/");
  session.choose(null);
  show({ changing: true });
}

function nothingView() {
  return h("section", {}, h("h1", {}, "Nothing to see here"), h("p", {}, `The role ${session.role} shows no page in this organisation.`));
}

session.addEventListener("allowed", () => {
  if (!place) return;
  place.allowed();
  router.close();
  router.open(place.main);
});
session.addEventListener("signed-out", ({ detail }) => {
  closeDialogs();
  if (detail.elsewhere || detail.issuer === null || !leaveProvider(known, detail.issuer)) show();
});

watchToken(config);
try {
  if (new URLSearchParams(location.search).has("state") && (await arrive(await config()))) window.close();
} catch (error) {
  root.dataset.problem = error.message;
}
await askOtherTabs();

let wasSignedIn = Boolean(session.token);
session.addEventListener("changed", () => {
  const isSignedIn = Boolean(session.token);
  if (isSignedIn && !wasSignedIn) show();
  wasSignedIn = isSignedIn;
});
session.addEventListener("signed-out", () => {
  wasSignedIn = false;
});
show();
