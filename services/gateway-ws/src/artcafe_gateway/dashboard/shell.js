// The frame around all pages: where one is, who one is, and how the connection is.

import { socket } from "./live.js";
import { quotaBanner } from "./quota.js";
import { session } from "./session.js";
import { h, replace } from "./ui/dom.js";
import { icon } from "./ui/icons.js";

const PAGES = [
  ["/overview", "Overview", "agents:read"],
  ["/agents", "Agents", "agents:read"],
  ["/channels", "Channels", "channels:read"],
  ["/preview", "Preview", "messages:read"],
  ["/usage", "Usage", "usage:read"],
  ["/people", "People", "members:read"],
];

/** Return the frame: `element`, `main` for pages, `moved(path)` and `allowed()` to be told. `change` leaves. */
export function shell({ signal, change }) {
  const blank = h("p", { class: "blank" });
  const main = h("main", { id: "main", tabindex: "-1" }, blank);
  const pages = h("ul", {});
  const pill = h("span", { class: "pill" });
  const banner = h("div", { class: "banner", role: "status", "aria-live": "polite" });
  const role = h("span", { class: "role" });
  let path = "";

  const skip = h("a", { class: "skip", href: "#main" }, "Skip to the page");
  skip.addEventListener("click", (event) => {
    // The part after "#" names the page here.
    event.preventDefault();
    main.focus();
  });

  function mark() {
    for (const link of pages.querySelectorAll("a")) {
      const to = link.getAttribute("href").slice(1);
      if (path === to || path.startsWith(`${to}/`)) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  function allowed() {
    replace(role, session.role ? ` · ${session.role.replace("_", " ")}` : "");
    replace(
      pages,
      PAGES.filter(([, , permission]) => session.may(permission)).map(([to, text]) =>
        h("li", {}, h("a", { href: `#${to}` }, icon(to.slice(1)), text)),
      ),
    );
    mark();
  }

  const connection = connectionStatus(pill, banner, blank, change);
  socket.addEventListener("state", connection, { signal });
  const ticking = setInterval(connection, 1000);
  signal.addEventListener("abort", () => clearInterval(ticking));
  connection();

  const element = h(
    "div",
    { class: "shell" },
    skip,
    h(
      "header",
      { class: "top" },
      h("a", { class: "brand", href: "#/overview" }, h("img", { src: "/dashboard/icon.svg", alt: "", width: 28, height: 28 }), "ArtCafe"),
      h("button", { type: "button", class: "quiet tenant", title: "Change the organisation", onclick: change },
        h("span", { class: "visually-hidden" }, "Organisation: "), session.tenant.name),
      pill,
      h("div", { class: "person" },
        h("span", { class: "who" }, session.email, role),
        h("button", { type: "button", class: "small", onclick: () => session.signOut() }, "Sign out")),
    ),
    h("nav", { "aria-label": "Pages" }, pages),
    h("div", { class: "page" }, banner, quotaBanner({ signal }), main),
  );
  return {
    element,
    main,
    allowed,
    moved(to) {
      path = to;
      mark();
    },
  };
}

/**
 * Return a function that writes how the connection is; the banner changes its words only when that changes.
 *
 * `blank` is what is shown before there was one; `change` leads to other organisations.
 */
function connectionStatus(pill, banner, blank, change) {
  let told = "";
  return () => {
    const { reason, retryAt } = socket.state;
    const name = socket.state.silentSince ? "silent" : socket.state.name;
    const left = retryAt ? Math.max(0, Math.ceil((retryAt - Date.now()) / 1000)) : 0;
    const words = { live: "Live", silent: "No messages", connecting: "Connecting", waiting: left ? `Retry in ${left} s` : "Connecting", stopped: "Stopped", off: "Off" };
    pill.className = `pill ${name}`;
    replace(pill, words[name]);
    replace(blank, name === "stopped" ? "Not connected." : "Connecting…");
    const state = `${name === "connecting" ? "waiting" : name}${reason ?? ""}`;
    const fresh = name === "connecting" && !socket.state.lostAt;
    if (name === "live" || name === "off" || fresh) {
      told = "";
      replace(banner);
      banner.classList.remove("shown");
    } else if (told === "" || (name !== "connecting" && told !== state)) {
      told = state;
      banner.classList.add("shown");
      const why = reason ? ` (${reason})` : "";
      const text = {
        stopped: `The live connection has ended${why}.${blank.isConnected ? "" : " What you see is no longer live."}`,
        silent: "The message bus is away: no message comes through and nothing can be published. What you see may be old; it goes on by itself.",
      }[name] ?? `The connection is lost${why}. What you see may be old; it comes back by itself.`;
      replace(banner, h("span", {}, text), name !== "silent" && h("span", { class: "actions" },
        h("button", { type: "button", class: "small", onclick: () => socket.hurry() }, "Try now"),
        // Whoever may not come in here any more may well be expected elsewhere.
        name === "stopped" && h("button", { type: "button", class: "small", onclick: change }, "Other organisations")));
    }
  };
}
