// A token is about to end, or has: get a new one without losing the page.

import { post } from "./api.js";
import { socket } from "./live.js";
import { renewInWindow, renewSilently } from "./oidc.js";
import { session } from "./session.js";
import { h, replace } from "./ui/dom.js";
import { dialog, field, form, input } from "./ui/form.js";
import { notice } from "./ui/notice.js";

/** Watch for the token's end; `config()` returns how people sign in. */
export function watchToken(config) {
  let asking = false;
  socket.addEventListener("frame", ({ detail }) => {
    if (detail.type === "token_expiring") session.renew().catch(() => {});
  });
  session.addEventListener("renewing", async () => {
    if (asking) return;
    asking = true;
    try {
      await renew(await config());
    } finally {
      asking = false;
    }
  });
  session.addEventListener("changed", () => {
    if (socket.state.name === "live" && session.token !== told) {
      told = session.token;
      socket.command({ type: "refresh", token: session.token }).catch((error) => notice(error.message, "bad"));
    }
  });
  let told = null;
  socket.addEventListener("connected", () => {
    told = session.token;
  });
}

async function renew(config) {
  if (session.issuer && (await renewSilently(config))) return;
  const gone = new AbortController();
  await dialog("Your session is ending", (close) => [
    h("p", {}, "Sign in again to stay on this page. Nothing on it is lost."),
    session.issuer ? again(config, close, gone.signal) : password(config, close),
    h("p", {}, h("button", { type: "button", class: "link", onclick: () => close("leave") }, "Sign out instead")),
  ], { dismissible: false }).then((outcome) => {
    gone.abort(new DOMException("closed", "AbortError"));
    if (outcome !== "done") session.signOut();
  });
}

function password(config, close) {
  return form(
    [
      field("E-mail", input("email", { type: "email", value: session.email, readonly: true, autocomplete: "username" })),
      field("Password", input("password", { type: "password", required: true, autocomplete: "current-password", autofocus: true })),
    ],
    {
      action: "Go on",
      submit: async (values) => {
        session.signIn((await post("/auth/login", values, { anonymous: true })).access_token);
        close("done");
      },
    },
  );
}

function again(config, close, signal) {
  const problem = h("p", { class: "problem", role: "alert" });
  const button = h("button", { type: "button", class: "primary" }, "Sign in again");
  button.addEventListener("click", async () => {
    replace(problem);
    try {
      await renewInWindow(config, signal);
      close("done");
    } catch (error) {
      if (error.name !== "AbortError") replace(problem, error.message);
    }
  });
  return h("div", {}, problem, button);
}
