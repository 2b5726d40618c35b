// The people of the organisation: who they are, what they may do; add, change and remove.

import { list, path, post, put, remove } from "../api.js";
import { count, moment } from "../format.js";
import { poll } from "../polling.js";
import { session } from "../session.js";
import { codeBlock } from "../ui/copy.js";
import { h, replace } from "../ui/dom.js";
import { confirm, dialog, field, form, input, select } from "../ui/form.js";
import { keep } from "../ui/keep.js";
import { notice } from "../ui/notice.js";
import { table } from "../ui/table.js";

const ROLES = {
  owner: "everything, also deleting the organisation",
  admin: "everything but what concerns owners",
  member: "agents, channels and messages",
  viewer: "look at agents, channels and messages",
  billing: "see the usage, and nothing else",
};
const COLUMNS = [["Person"], ["Role"], ["May"], ["Since"], ["", "right"]];

export function peopleView({ signal }) {
  const mayWrite = session.may("members:write");
  const counter = h("p", { class: "hint", role: "status" });
  const body = h("div", { class: "list" }, h("p", { class: "blank" }, "Loading…"));
  const address = path`/tenants/${session.tenant.id}/members`;
  let people = new Map();
  const again = poll(() => list(address, "members", { signal }), {
    changed: ({ kind }) => kind === "member",
    signal,
    show,
    failed: (error) => replace(body, h("p", { class: "problem" }, error.message)),
  });

  function show({ items, more }) {
    people = new Map(items.map((person) => [person.user_id, person]));
    replace(counter, more ? "There are more people than can be shown here." : count(items.length, "person", "people"));
    keep(body, table("People", COLUMNS, items.map((person) => [
      h("span", { class: "name" }, h("strong", {}, nameOf(person), isMe(person) && h("span", { class: "hint" }, " (you)")), nameOf(person) !== person.user_id && h("code", {}, person.user_id)),
      person.role,
      h("span", { class: "hint" }, ROLES[person.role] ?? ""),
      h("time", { datetime: person.created_at }, moment(person.created_at)),
      actions(person),
    ]), items.map((person) => person.user_id)));
  }

  function actions(person) {
    if (isMe(person)) return h("button", { type: "button", class: "small danger quiet", onclick: () => leave(person) }, "Leave");
    const above = session.role === "owner" || session.may("tenants:admin");
    if (!mayWrite || (person.role === "owner" && !above)) return false;
    return h("span", { class: "actions end" },
      h("button", { type: "button", class: "small", "aria-label": `Change the role of ${nameOf(person)}`, onclick: () => change(people.get(person.user_id)) }, "Change"),
      h("button", { type: "button", class: "small danger quiet", "aria-label": `Remove ${nameOf(person)}`, onclick: () => drop(person) }, "Remove"));
  }

  async function change(person) {
    const changed = await dialog(`Role of ${nameOf(person)}`, (close) => form([roleField(person.role)], {
      action: "Save",
      cancel: () => close(),
      submit: async ({ role }) => {
        await put(`${address}/${encodeURIComponent(person.user_id)}`, { role });
        close(true);
      },
    }));
    if (changed) again();
  }

  async function drop(person) {
    const text = `${nameOf(person)} no longer gets into ${session.tenant.name}, from now on. What they made stays.`;
    if (await confirm(`Remove ${nameOf(person)}?`, text, "Remove", () => remove(`${address}/${encodeURIComponent(person.user_id)}`))) again();
  }

  async function leave(person) {
    const text = "You no longer get in, unless somebody adds you again.";
    if (await confirm(`Leave ${session.tenant.name}?`, text, "Leave", () => remove(`${address}/${encodeURIComponent(person.user_id)}`))) session.signOut();
  }

  async function add() {
    const added = await dialog("Add a person", (close) => [
      h("p", {}, "People sign in with an account of their own. Who belongs to no organisation yet is shown their id after signing in; ask them for it:"),
      codeBlock("Lines to send them", `Please sign in at ${location.origin}/ and send me the id that the page shows you.`),
      form(
        [
          field("Their id", input("user_id", { required: true, maxlength: 255, spellcheck: "false", autofocus: true }), "The sub of their token, after their identity provider's prefix where it has one. Signed in, but in no organisation, they see it."),
          field("E-mail", input("email", { type: "email", maxlength: 254 }), "To know them by. May be empty."),
          roleField("member"),
        ],
        {
          action: "Add",
          cancel: () => close(),
          submit: async (values) => close(await post(address, values)),
        },
      ),
    ]);
    if (!added) return;
    notice(`${nameOf(added)} may sign in to ${session.tenant.name}`, "good");
    again();
  }

  return h("section", {},
    h("div", { class: "title" }, h("h1", {}, "People"), mayWrite && h("button", { type: "button", class: "primary", onclick: add }, "Add a person")),
    counter, body);
}

const isMe = (person) => person.user_id === session.userId;
const nameOf = (person) => person.email || (isMe(person) && session.email) || person.user_id;

/** A choice of roles; who is no owner can make none. */
function roleField(current) {
  const above = session.role === "owner" || session.may("tenants:admin");
  const roles = Object.entries(ROLES).filter(([role]) => role !== "owner" || above);
  return field("Role", select("role", roles.map(([role, may]) => [role, `${role}: ${may}`]), current));
}
