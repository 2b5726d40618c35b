// A token is about to end, or has: get a new one while the page goes on, without a word or from a line above it.

import { post } from "./api.js";
import { socket } from "./live.js";
import { renewInWindow, renewSilently } from "./oidc.js";
import { session } from "./session.js";
import { h, newId, replace } from "./ui/dom.js";
import { field, form, input } from "./ui/form.js";
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
    // Ends with a new token, of this tab or another, or when somebody signs out.
    const renewed = session.renew().catch(() => {});
    await renew(await patiently(config), renewed);
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

/** Have a new token: silently where that can be, else somebody is asked, beside what they are doing. */
async function renew(config, renewed) {
  if (session.issuer && (await renewSilently(config))) return;
  const gone = new AbortController();
  const { signal } = gone;
  const titleId = newId("renewal");
  const line = h("section", { class: "renewal", "aria-labelledby": titleId },
    h("div", { role: "alert" },
      h("h2", { id: titleId }, "Your session is ending"),
      h("p", {}, "Sign in again to stay. This page goes on meanwhile; once the session has ended, nothing new comes until you have.")),
    session.issuer ? again(config, signal) : password(),
    h("button", { type: "button", class: "link", onclick: () => session.signOut() }, "Sign out instead"));
  // While a dialog is open nothing outside it can be used.
  const place = () => {
    const top = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
    if (line.parentElement !== top) top.prepend(line);
  };
  for (const event of ["close", "toggle"]) document.addEventListener(event, place, { capture: true, signal });
  place();
  await renewed;
  line.remove();
  gone.abort(new DOMException("closed", "AbortError"));
}

function password() {
  const element = form(
    [
      field("E-mail", input("email", { type: "email", value: session.email, readonly: true, autocomplete: "username" })),
      field("Password", input("password", { type: "password", required: true, autocomplete: "current-password" })),
    ],
    {
      action: "Go on",
      submit: async (values) => session.signIn((await post("/auth/login", values, { anonymous: true })).access_token),
    },
  );
  element.classList.add("inline");
  return element;
}

function again(config, signal) {
  const problem = h("p", { class: "problem", role: "alert" });
  const button = h("button", { type: "button", class: "primary" }, "Sign in again");
  button.addEventListener("click", async () => {
    replace(problem);
    try {
      await renewInWindow(config, signal);
    } catch (error) {
      if (error.name !== "AbortError") replace(problem, error.message);
    }
  });
  return h("div", {}, problem, button);
}
