// Making an agent, and the private key that is shown once.

import { agents } from "../agents.js";
import { path, post } from "../api.js";
import { copyButton, download } from "../ui/copy.js";
import { h } from "../ui/dom.js";
import { dialog, field, form, input, select } from "../ui/form.js";

const ID = "[A-Za-z0-9_\\-]{1,64}";

/** Ask for a new agent; returns what the server made, or undefined. */
export function createAgent() {
  return dialog("New agent", (close) => {
    const name = input("name", { required: true, maxlength: 128, autofocus: true });
    const id = input("agent_id", { pattern: ID, maxlength: 64, spellcheck: "false" });
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
        field("Id", id, "Letters, digits, - and _. It never changes. Made for you where it is empty."),
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
          agents.refresh();
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
        done.disabled = false;
      });
      const copy = copyButton(() => privateKey, "Copy instead");
      copy.addEventListener("click", () => (done.disabled = false));
      return [
        h("p", {}, "With this key programs act as ", h("strong", {}, agentId), ". The server does not keep it: save it now, it cannot be shown again. If it gets lost, add another key."),
        h("div", { class: "actions" }, save, copy, done),
      ];
    },
    { dismissible: false },
  );
}

/** The name of the file that an agent's key is downloaded as. */
export const keyFile = (agentId) => `${agentId}.key`;

/** Split what was typed with commas. */
export const words = (text) => text.split(",").map((word) => word.trim()).filter(Boolean);
