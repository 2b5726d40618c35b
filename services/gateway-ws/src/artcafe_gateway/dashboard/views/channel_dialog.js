// Making and changing a channel.

import { path, post, put } from "../api.js";
import { dialog, field, form, input, select } from "../ui/form.js";

const ID = "[A-Za-z0-9_\\-]{1,64}(\\.[A-Za-z0-9_\\-]{1,64})*";
const ACCESS = [["open", "Every agent may read and publish"], ["members", "Only agents that are members"]];

/** Make a channel, or change `channel`; returns the channel as the server has it, or undefined. */
export function channelDialog(channel = null) {
  return dialog(channel ? `Edit ${channel.channel_id}` : "New channel", (close) =>
    form(
      [
        field("Name", input("name", { value: channel?.name, required: true, maxlength: 128, autofocus: true })),
        !channel && field("Id", input("channel_id", { pattern: ID, maxlength: 128, spellcheck: "false", placeholder: "team.updates" }), "What agents write in their code: letters, digits, - and _, in parts joined by dots. It never changes. Made from the name where it is empty."),
        field("Description", input("description", { value: channel?.description, maxlength: 1024 })),
        field("Who may use it", select("access", ACCESS, channel?.access ?? "open")),
      ].filter(Boolean),
      {
        action: channel ? "Save" : "Create channel",
        cancel: () => close(),
        submit: async ({ channel_id: id, ...values }) => {
          if (channel) close(await put(path`/channels/${channel.channel_id}`, values));
          else close(await post("/channels", id ? { ...values, channel_id: id } : values));
        },
      },
    ),
  );
}
