// Sign in: e-mail and password at the local issuer, or at an identity provider.

import { post } from "../api.js";
import { leaveFor } from "../oidc.js";
import { session } from "../session.js";
import { h, replace } from "../ui/dom.js";
import { field, form, input } from "../ui/form.js";
import { failed } from "../ui/notice.js";

const AGAIN_SECONDS = 3;

export function signInView({ config, signal }) {
  const root = document.getElementById("app");
  const body = h("div", {}, h("p", { class: "hint", role: "status" }, "One moment…"));
  const problem = root.dataset.problem;
  delete root.dataset.problem;
  document.title = "Sign in · ArtCafe PubSub";
  load();
  return h(
    "main",
    { class: "door" },
    h("img", { src: "/dashboard/icon.svg", alt: "", width: 56, height: 56 }),
    h("h1", {}, "ArtCafe PubSub"),
    h("p", { class: "lead" }, "Sign in to watch and steer your agents."),
    problem && h("p", { class: "problem", role: "alert" }, problem),
    body,
  );

  async function load() {
    try {
      replace(body, choices(await config()));
      body.querySelector("input, button")?.focus();
    } catch (error) {
      if (signal.aborted) return;
      replace(body, h("p", { class: "problem", role: "alert" }, `${error.message} Trying again…`));
      setTimeout(() => signal.aborted || load(), AGAIN_SECONDS * 1000);
    }
  }
}

function choices(config) {
  const parts = config.issuers.map((issuer) => provider(issuer, config.issuers.length > 1));
  if (config.local_login) {
    if (parts.length) parts.push(h("p", { class: "or" }, "or"));
    parts.push(local());
  }
  return parts.length ? parts : h("p", { class: "problem" }, "No way to sign in is configured on this server.");
}

function provider(issuer, several) {
  const name = new URL(issuer.issuer).host;
  const there = issuer.authorization_endpoint && issuer.token_endpoint;
  return h(
    "div",
    {},
    h("button", {
      type: "button",
      class: "primary wide",
      disabled: !there,
      onclick: () => leaveFor(issuer).catch((error) => failed("Signing in", error)),
    }, several ? `Sign in with ${name}` : "Sign in"),
    h("p", { class: "hint" }, there ? `You continue at ${name}.` : `${name} cannot be reached right now: reload in a moment.`),
  );
}

function local() {
  return form(
    [
      field("E-mail", input("email", { type: "email", required: true, autocomplete: "username" })),
      field("Password", input("password", { type: "password", required: true, autocomplete: "current-password" })),
    ],
    {
      action: "Sign in",
      submit: async (values) => session.signIn((await post("/auth/login", values, { anonymous: true })).access_token),
    },
  );
}
