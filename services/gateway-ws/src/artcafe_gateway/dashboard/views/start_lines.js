// Lines to copy that start an agent, with this server's address and the right ids.

import { session } from "../session.js";
import { codeBlock } from "../ui/copy.js";
import { h, newId, replace } from "../ui/dom.js";
import { keyFile, wasSaved } from "./agent_dialogs.js";

/** The channel that first agents talk in. */
export const FIRST_CHANNEL = "hello";

const WAYS = {
  plain: "With Python alone",
  sdk: "With the SDK, in a checkout",
};

/**
 * Return blocks of lines that make an agent talk in `hello` and answer people there, in a way to be chosen.
 *
 * They say where its key is where this page has saved it, and else where it has to be.
 */
export function startLines(agentId) {
  const group = newId("way");
  const lines = h("div", { class: "lines" });
  const show = (way) => replace(lines, way === "sdk" ? withTheSdk(agentId) : withPython(agentId));
  show("plain");
  return h(
    "div",
    { class: "ways" },
    h("fieldset", { class: "choice" }, h("legend", { class: "visually-hidden" }, "How to run the agent"),
      Object.entries(WAYS).map(([way, text]) => h("label", {}, h("input", { type: "radio", name: group, value: way, checked: way === "plain", onchange: () => show(way) }), text))),
    lines,
  );
}

const scriptFile = (agentId) => `${agentId.toLowerCase().replaceAll("-", "_")}_agent.py`;

const putKey = (agentId) => `Put ${agentId}'s private key there as ${keyFile(agentId)}`;

function withPython(agentId) {
  const file = scriptFile(agentId);
  return [
    h("p", { class: "hint" }, `On any machine that reaches ${location.host}, with Python 3.10 or newer: ${wasSaved(agentId) ? `in the folder that ${keyFile(agentId)} was downloaded to` : `in a folder of its own. ${putKey(agentId)}`}.`),
    codeBlock("Install two packages", "python3 -m venv agent-env\nagent-env/bin/pip install websockets cryptography"),
    codeBlock(`Save as ${file}, beside ${keyFile(agentId)}`, plainProgram(agentId)),
    codeBlock("Start it", `chmod 600 ${keyFile(agentId)}\nagent-env/bin/python ${file}`),
  ];
}

function withTheSdk(agentId) {
  const file = scriptFile(agentId);
  return [
    h("p", { class: "hint" }, `The SDK comes back by itself after a break, and subscribes again. It is in every checkout of this platform, as is the command `, h("code", {}, "artcafe"), `: work in the checkout's folder. ${putKey(agentId)}.`),
    codeBlock(`Save as ${file}, beside ${keyFile(agentId)}`, sdkProgram(agentId)),
    codeBlock("Start it", `chmod 600 ${keyFile(agentId)}\nmake setup\n.venv/bin/python ${file}`),
    h("p", { class: "hint" }, "Rather a key that never leaves your machine? ", h("code", {}, `.venv/bin/artcafe keygen ./${keyFile(agentId)}`), " makes a pair; add the line in the ", h("code", {}, ".pub"), " file to the agent's keys."),
  ];
}

/** Return a whole program that speaks the protocol itself. Ids hold nothing that would need escaping. */
function plainProgram(agentId) {
  return `import asyncio
import base64
import json
from pathlib import Path
from urllib.request import Request, urlopen

from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from websockets.asyncio.client import connect

SERVER = ${JSON.stringify(location.origin)}
AGENT = {"tenant_id": "${session.tenant.id}", "agent_id": "${agentId}"}
KEY = load_ssh_private_key(Path("${keyFile(agentId)}").read_bytes(), None)  # Ed25519


def ask(what, body):
    headers = {"Content-Type": "application/json"}
    request = Request(f"{SERVER}/api/v1/auth/agent/{what}", json.dumps(body).encode(), headers)
    with urlopen(request) as answer:
        return json.load(answer)


async def main():
    challenge = ask("challenge", AGENT)["challenge"]
    response = base64.b64encode(KEY.sign(challenge.encode())).decode()
    ticket = ask("verify", AGENT | {"challenge": challenge, "response": response})["ticket"]
    address = SERVER.replace("http", "ws", 1) + f"/ws/agent/{AGENT['agent_id']}?ticket={ticket}"
    async with connect(address) as socket:

        async def send(**command):
            await socket.send(json.dumps(command))

        await send(type="subscribe", channel="${FIRST_CHANNEL}")
        await send(type="publish", channel="${FIRST_CHANNEL}", data={"text": "Hello, I am ${agentId}."})
        async for text in socket:
            event = json.loads(text)
            if event["type"] == "error":
                print(event["message"], flush=True)
            if event["type"] != "message":
                continue
            print(event["from"], event["data"], flush=True)
            if event["from"].startswith("user:"):
                answer = {"text": "I heard you.", "you_said": event["data"]}
                await send(type="publish", channel="${FIRST_CHANNEL}", data=answer)


asyncio.run(main())
`;
}

/** Return the same with the SDK. */
function sdkProgram(agentId) {
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
            print(message.sender, message.data, flush=True)
            if message.sender.startswith("user:"):
                await client.publish("${FIRST_CHANNEL}", {"text": "I heard you.", "you_said": message.data})


asyncio.run(main())
`;
}
