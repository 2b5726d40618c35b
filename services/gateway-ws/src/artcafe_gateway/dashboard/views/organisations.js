// Choose the organisation to work in, or make the first one.

import { list, post } from "../api.js";
import { poll } from "../polling.js";
import { session } from "../session.js";
import { h, replace } from "../ui/dom.js";
import { field, form, input } from "../ui/form.js";
import { count } from "../format.js";

const LOOK_SECONDS = 5;

/** `chosen()` is called when the session has an organisation. The only one is chosen by itself, unless `changing`. */
export function organisationsView({ signal, changing, chosen }) {
  const body = h("div", {}, h("p", { class: "hint", role: "status" }, "One moment…"));
  document.title = "Organisations · ArtCafe PubSub";
  load();
  return h(
    "main",
    { class: "door" },
    h("h1", {}, "Organisations"),
    body,
    h("p", {}, `Signed in as ${session.email}. `, h("button", { type: "button", class: "link", onclick: () => session.signOut() }, "Sign out")),
  );

  async function load() {
    try {
      const { items, more } = await list("/tenants", "tenants", { signal });
      if (items.length === 1 && !changing) return choose(items[0]);
      const there = h("div", { "aria-live": "polite" }, items.length ? choices(items, more) : h("p", {}, "You belong to no organisation yet. Make one, or ask somebody to add you to theirs: it appears here then. Your id is ", h("code", {}, session.userId), "."));
      replace(body, there, newOne(items.length > 0));
      body.querySelector("button, input")?.focus();
      if (!items.length) lookOut(there);
    } catch (error) {
      if (signal.aborted) return;
      replace(body, h("p", { class: "problem", role: "alert" }, error.message), h("button", { type: "button", onclick: load }, "Try again"));
    }
  }

  /** Whoever is added to an organisation finds it here; what they are writing meanwhile stays. */
  function lookOut(there) {
    const found = new AbortController();
    poll(() => list("/tenants", "tenants", { signal }), {
      seconds: LOOK_SECONDS,
      signal: AbortSignal.any([signal, found.signal]),
      show: ({ items, more }) => {
        if (!items.length) return;
        found.abort();
        replace(there, choices(items, more));
      },
    });
  }

  function choices(items, more) {
    return [
      h("ul", { class: "choices" }, items.map((tenant) =>
        h("li", {}, h("button", { type: "button", onclick: () => choose(tenant) },
          h("strong", {}, tenant.name),
          h("span", { class: "hint" }, `${tenant.tenant_id} · ${tenant.role.replace("_", " ")} · plan ${tenant.plan} · ${count(tenant.agents, "agent")}${tenant.status === "active" ? "" : ` · ${tenant.status}`}`))))),
      more && h("p", { class: "hint" }, "There are more than can be shown here."),
    ];
  }

  function newOne(folded) {
    const maker = form([field("Name", input("name", { required: true, maxlength: 128 }), "For example the name of your team.")], {
      action: "Make organisation",
      submit: async (values) => choose(await post("/tenants", values)),
    });
    return folded ? h("details", { class: "fold" }, h("summary", {}, "Make another organisation"), maker) : maker;
  }

  function choose(tenant) {
    session.choose(tenant);
    chosen();
  }
}
