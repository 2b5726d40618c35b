// A token is about to end, or has: get a new one without losing the page.

import { post } from "./api.js";
import { socket } from "./live.js";
import { renewInWindow, renewSilently } from "./oidc.js";
import { session } from "./session.js";
import { h, replace } from "./ui/dom.js";
import { dialog, field, form, input } from "./ui/form.js";
import { notice } from "./ui/notice.js";

const AGAIN_SECONDS = 3;

/** Watch for the token's end; `config()` returns how people sign in. */
export function watchToken(config) {
  let asking = false;
  socket.addEventListener("frame", ({ detail }) => {
    if (detail.type === "token_expiring") session.renew().catch(() => {});
  });
  session.addEventListener("renewing", async () => {
    if (asking) return;
    asking = true;
    await renew(await patiently(config));
    asking = false;
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

/** Ask until there is an answer: the token may well end while the server is away. */
async function patiently(config) {
  for (;;) {
    try {
      return await config();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, AGAIN_SECONDS * 1000));
    }
  }
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
