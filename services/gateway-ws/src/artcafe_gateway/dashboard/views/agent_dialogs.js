// Making an agent, and the private key that is shown once.

import { agents } from "../agents.js";
import { path, post } from "../api.js";
import { session } from "../session.js";
import { copyButton, download } from "../ui/copy.js";
import { h } from "../ui/dom.js";
import { dialog, field, form, input, select } from "../ui/form.js";

const ID = "[A-Za-z0-9_\\-]{1,64}";
const ID_MAX = 64;

/** Agents whose private key was saved from this page, since it was loaded. */
const saved = new Set();

/** Ask for a new agent; returns what the server made, or undefined. */
export function createAgent() {
  return dialog("New agent", (close) => {
    const name = input("name", { required: true, maxlength: 128, autofocus: true });
    const id = input("agent_id", { pattern: ID, maxlength: ID_MAX, spellcheck: "false" });
    // Whoever writes an id of their own keeps it; empty, it follows the name again.
    let chosen = false;
    id.addEventListener("input", () => {
      chosen = id.value !== "";
    });
    name.addEventListener("input", () => {
      if (!chosen) id.value = idFor(name.value);
    });
    const publicKey = h("textarea", { name: "public_key", rows: 3, spellcheck: "false", placeholder: "ssh-ed25519 AAAA…" });
    const own = field("Public key", publicKey, "One line as OpenSSH writes it, for example from the file that `artcafe keygen ./agent.key` names .pub.");
    own.hidden = true;
    const source = select("key", [["make", "Make one, to download once"], ["own", "Use mine: paste the public half"]], "make");
    source.addEventListener("change", () => {
      own.hidden = source.value !== "own";
      publicKey.required = !own.hidden;
    });
    return form(
      [
        field("Name", name),
        field("Id", id, "What the agent is called in code and in addresses: letters, digits, - and _. It follows the name, and never changes afterwards."),
        field("What it can do", input("capabilities"), "Capabilities, separated by commas. May be empty."),
        field("Key", source),
        own,
      ],
      {
        action: "Create agent",
        cancel: () => close(),
        submit: async (values) => {
          const body = { name: values.name, capabilities: words(values.capabilities) };
          if (values.agent_id) body.agent_id = values.agent_id;
          if (values.key === "own") body.public_key = values.public_key;
          const created = await post("/agents", body);
          close(created);
        },
      },
    );
  });
}

/** Ask for a key to add to an agent; returns what the server made, or undefined. */
export function addKey(agentId) {
  return dialog("Add a key", (close) =>
    form(
      [
        field("Name", input("name", { maxlength: 128, autofocus: true }), "To know it by, for example where it is used. May be empty."),
        field("Public key", h("textarea", { name: "public_key", rows: 3, spellcheck: "false" }), "One line as OpenSSH writes it. Empty: a pair is made and you download its private half once."),
      ],
      {
        action: "Add key",
        cancel: () => close(),
        submit: async (values) => {
          const body = { name: values.name };
          if (values.public_key) body.public_key = values.public_key;
          close(await post(path`/agents/${agentId}/keys`, body));
        },
      },
    ),
  );
}

/** Show a private key, which nobody can show again. */
export function showPrivateKey(agentId, privateKey) {
  const file = keyFile(agentId);
  return dialog(
    "The private key",
    (close) => {
      const done = h("button", { type: "button", disabled: true, onclick: () => close() }, "Done");
      const save = h("button", { type: "button", class: "primary", autofocus: true }, `Download ${file}`);
      save.addEventListener("click", () => {
        download(file, privateKey, "application/octet-stream");
        saved.add(named(agentId));
        done.disabled = false;
      });
      const text = h("div", { class: "code", hidden: true }, h("pre", { tabindex: "0", "aria-label": "The key's text" }, privateKey));
      const copy = copyButton(() => privateKey, "Copy instead", {
        copied: () => {
          done.disabled = false;
        },
        // It is not kept anywhere else: there must be something to select before this can be left.
        refused: () => {
          text.hidden = done.disabled = false;
        },
      });
      return [
        h("p", {}, "With this key programs act as ", h("strong", {}, agentId), ". The server does not keep it: save it now, it cannot be shown again. If it gets lost, add another key."),
        text,
        h("div", { class: "actions" }, save, copy, done),
      ];
    },
    { dismissible: false },
  );
}

/** Have a key made for an agent, and hand out its private half. */
export async function addAndShowKey(agentId) {
  const { private_key: privateKey } = await post(path`/agents/${agentId}/keys`, {});
  await showPrivateKey(agentId, privateKey);
}

/** Tell whether an agent's private key was saved from this page: then the person has it in their downloads. */
export const wasSaved = (agentId) => saved.has(named(agentId));

const named = (agentId) => `${session.tenant.id}/${agentId}`;

/** Return an id made from a name that no agent here has; empty where the name holds nothing that an id may. */
function idFor(name) {
  const plain = name.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  const id = plain.replace(/[^a-z0-9_]+/g, "-").slice(0, ID_MAX).replace(/^-+|-+$/g, "");
  if (!id || !agents.all.has(id)) return id;
  for (let nth = 2; ; nth += 1) {
    const another = `${id.slice(0, ID_MAX - String(nth).length - 1)}-${nth}`;
    if (!agents.all.has(another)) return another;
  }
}

/** The name of the file that an agent's key is downloaded as. */
export const keyFile = (agentId) => `${agentId}.key`;

/** Split what was typed with commas. */
export const words = (text) => text.split(",").map((word) => word.trim()).filter(Boolean);
