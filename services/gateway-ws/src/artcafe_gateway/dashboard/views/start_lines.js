// Lines to copy that start an agent, with this server's address and the right ids.

import { session } from "../session.js";
import { codeBlock } from "../ui/copy.js";
import { h } from "../ui/dom.js";
import { keyFile } from "./agent_dialogs.js";

/** The channel that first agents talk in. */
export const FIRST_CHANNEL = "hello";

/** Return blocks of lines that make an agent talk in `hello` and answer people there. */
export function startLines(agentId) {
  const file = `${agentId.toLowerCase().replaceAll("-", "_")}_agent.py`;
  return h(
    "div",
    { class: "lines" },
    codeBlock("Install the Python package (3.11 or newer)", "pip install artcafe-agent"),
    codeBlock(`Save as ${file}, beside ${keyFile(agentId)}`, program(agentId)),
    codeBlock("Start it", `chmod 600 ${keyFile(agentId)}\npython ${file}`),
    h("p", { class: "hint" }, "Rather a key that never leaves your machine? ", h("code", {}, `artcafe keygen ./${keyFile(agentId)}`), " makes a pair; add the line in the ", h("code", {}, ".pub"), " file to the agent's keys."),
  );
}

/** Return a whole program. Ids hold nothing that would need escaping. */
export function program(agentId) {
  return `import asyncio

from artcafe_agent import Client


async def main():
    async with Client(
        base_url=${JSON.stringify(location.origin)},
        tenant_id="${session.tenant.id}",
        agent_id="${agentId}",
        private_key_path="${keyFile(agentId)}",
    ) as client:
        messages = await client.subscribe("${FIRST_CHANNEL}")
        await client.publish("${FIRST_CHANNEL}", {"text": "Hello, I am ${agentId}."})
        async for message in messages:
            print(message.sender, message.data)
            if message.sender.startswith("user:"):
                await client.publish("${FIRST_CHANNEL}", {"text": "I heard you.", "you_said": message.data})


asyncio.run(main())
`;
}
