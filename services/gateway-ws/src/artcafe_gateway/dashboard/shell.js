// The frame around all pages: where one is, who one is, and how the connection is.

import { socket } from "./live.js";
import { session } from "./session.js";
import { h, replace } from "./ui/dom.js";

const PAGES = [
  ["/overview", "Overview", "agents:read"],
  ["/agents", "Agents", "agents:read"],
  ["/channels", "Channels", "channels:read"],
  ["/preview", "Preview", "messages:read"],
  ["/usage", "Usage", "usage:read"],
];

/** Return the frame: `element`, `main` for pages, `moved(path)` and `allowed()` to be told. `change` leaves. */
export function shell({ signal, change }) {
  const main = h("main", { id: "main", tabindex: "-1" }, h("p", { class: "blank" }, "Connecting…"));
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
        h("li", {}, h("a", { href: `#${to}` }, text)),
      ),
    );
    mark();
  }

  const connection = connectionStatus(pill, banner);
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
    h("div", { class: "page" }, banner, main),
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

/** Return a function that writes how the connection is; the banner changes its words only when that changes. */
function connectionStatus(pill, banner) {
  let told = "";
  return () => {
    const { name, reason, retryAt } = socket.state;
    const left = retryAt ? Math.max(0, Math.ceil((retryAt - Date.now()) / 1000)) : 0;
    const words = { live: "Live", connecting: "Connecting", waiting: left ? `Retry in ${left} s` : "Connecting", stopped: "Stopped", off: "Off" };
    pill.className = `pill ${name}`;
    replace(pill, words[name]);
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
      const text = name === "stopped"
        ? `The live connection has ended${why}. What you see is no longer live.`
        : `The connection is lost${why}. What you see may be old; it comes back by itself.`;
      replace(banner, h("span", {}, text), h("button", { type: "button", class: "small", onclick: () => socket.hurry() }, "Try now"));
    }
  };
}
