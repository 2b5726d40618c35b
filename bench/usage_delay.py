"""``python -m bench.usage_delay``: how long after a publish `/usage/current` shows it.

The whole embedded stack. An agent publishes one message at a random moment between two batches of its
gateway, and `/usage/current` is asked at metering again and again until the message is there. What that
takes is the wait for the batch, for the stream to have it on disk, for metering's round, and for the answer;
the asking adds up to `POLL_SECONDS`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from artcafe_agent import Client
from artcafe_agent.keys import AgentKey
from artcafe_devstack.devstack import DevStack
from bench.metering import RESULTS
from bench.processes import machine_facts
from bench.stats import percentile

POLL_SECONDS = 0.02
GIVE_UP_SECONDS = 30.0
TENANT_ID, AGENT_ID = "delay", "writer"


class Asker:
    """A person who asks the services directly, as nobody's edge is measured."""

    def __init__(self, session: aiohttp.ClientSession, stack: DevStack) -> None:
        self._session = session
        self._stack = stack
        self._headers: dict[str, str] = {}

    async def prepare(self) -> AgentKey:
        """Sign in, and make a tenant with an agent; return the agent's key."""
        demo = self._stack.demo
        login = await self.post("auth", "/auth/login", email=demo["email"], password=demo["password"])
        self._headers["Authorization"] = f"Bearer {login['access_token']}"
        await self.post(
            "registry", "/tenants", tenant_id=TENANT_ID, name="Delay", plan="enterprise",
            auto_create_channels=True,
        )  # fmt: skip
        self._headers["X-Tenant-Id"] = TENANT_ID
        key = AgentKey.generate("ed25519")
        await self.post("registry", "/agents", agent_id=AGENT_ID, name=AGENT_ID, public_key=key.public_key)
        return key

    async def post(self, service: str, path: str, **body: object) -> dict[str, str]:
        """Send one request and return its answer."""
        url = f"{self._stack.urls[service]['http']}/api/v1{path}"
        async with self._session.post(url, json=body, headers=self._headers) as answer:
            answer.raise_for_status()
            found: dict[str, str] = await answer.json()
            return found

    async def messages(self) -> int:
        """Return the messages of the month."""
        url = f"{self._stack.urls['metering']['http']}/api/v1/usage/current"
        async with self._session.get(url, headers=self._headers) as answer:
            answer.raise_for_status()
            return int((await answer.json())["usage"]["messages"])


async def measure(stack: DevStack, samples: int) -> list[float]:
    """Return the delay of each message in seconds."""
    delays: list[float] = []
    async with aiohttp.ClientSession() as session:
        asker = Asker(session, stack)
        key = await asker.prepare()
        client = Client(base_url=stack.base_url, tenant_id=TENANT_ID, agent_id=AGENT_ID, private_key=key)
        async with client:
            for number in range(1, samples + 1):
                await asyncio.sleep(random.random())
                started = time.monotonic()
                await client.publish("room", number)
                while await asker.messages() < number:
                    if time.monotonic() - started > GIVE_UP_SECONDS:
                        raise SystemExit("bench: a message was never shown")
                    await asyncio.sleep(POLL_SECONDS)
                delays.append(time.monotonic() - started)
    return delays


def main() -> int:
    """Measure, print a line and keep a file."""
    parser = argparse.ArgumentParser(prog="python -m bench.usage_delay", description=__doc__)
    parser.add_argument("--samples", type=int, default=300, help="messages to follow, about one a second")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="artcafe-bench-") as folder,
        DevStack(Path(folder), env={"auth": {"AUTH_ADDRESS_RATE": "0"}}) as stack,
    ):
        delays = asyncio.run(measure(stack, options.samples))
    p50, p99 = percentile(delays, 50), percentile(delays, 99)
    print(f"publish to /usage/current: p50 {p50:.2f} s, p99 {p99:.2f} s, most {max(delays):.2f} s")
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / time.strftime("usage-delay-%Y%m%dT%H%M%SZ.json", time.gmtime())
    facts = machine_facts() | {"python": sys.version.split()[0]}
    path.write_text(json.dumps({"facts": facts, "p50": p50, "p99": p99, "delays": delays}, indent=1))
    print(f"kept in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
