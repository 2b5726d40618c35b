// What an agent may do in a channel.

import { agents } from "../agents.js";
import { list, path, put, remove } from "../api.js";
import { h } from "../ui/dom.js";
import { checkbox, dialog, field, form, input, select } from "../ui/form.js";
import { failed } from "../ui/notice.js";

export const ROLES = { both: "read and publish", subscriber: "read", publisher: "publish" };

/** Make or change an agent's row in a channel; one of both ids may be missing and is asked for. Returns true if done. */
export async function grantDialog({ agentId, channelId, row = null }) {
  const channels = channelId ? null : (await list("/channels", "channels")).items;
  return dialog(row ? `${agentId} in ${channelId}` : "Add a member", (close) => {
    const address = (values) => path`/channels/${channelId ?? values.channel_id}/members/${agentId ?? values.agent_id}`;
    const drop = h("button", { type: "button", class: "danger quiet" }, "Remove the row");
    drop.addEventListener("click", () => remove(address({})).then(() => close(true), (error) => failed("Removing", error)));
    return form(
      [
        !channelId && field("Channel", chooser("channel_id", channels.map((each) => [each.channel_id, each.name]))),
        !agentId && field("Agent", chooser("agent_id", [...agents.all.values()].map((each) => [each.id, each.name]))),
        field("It may", select("role", Object.entries(ROLES), row?.role ?? "both")),
        checkbox("auto_subscribe", "Subscribe by itself when it connects", row?.auto_subscribe ?? false),
      ].filter(Boolean),
      {
        action: "Save",
        cancel: () => close(),
        hint: row && drop,
        submit: async (values) => {
          await put(address(values), { role: values.role, auto_subscribe: values.auto_subscribe });
          close(true);
        },
      },
    );
  });
}

/** An input that suggests ids. */
function chooser(name, options) {
  const id = `${name}-choices`;
  const suggestions = h("datalist", { id }, options.map(([value, text]) => h("option", { value }, text)));
  const element = input(name, { required: true, list: id, autofocus: true, spellcheck: "false" });
  document.getElementById(id)?.remove();
  element.addEventListener("focus", () => element.after(suggestions), { once: true });
  return element;
}
