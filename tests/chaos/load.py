"""Agents and people who publish all the time and note what they were told, while processes are killed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import httpx

from artcafe_agent import Client, ReconnectPolicy
from artcafe_agent.errors import ArtcafeError, CommandError, NotConnected, OutcomeUnknown

from .verdict import Figures, Message, Outcome, Seen, Usage

# The person who publishes over REST; agents go by their ids.
PERSON = ""
ANSWER_SECONDS = 8.0
SIZES = (30, 4_000)


class Organisation:
    """A tenant with agents, all of which publish in all of its channels, and one of which hears them all."""

    def __init__(self, tenant: Any, channels: Iterable[str], chance: random.Random) -> None:
        self.tenant = tenant
        self.channels = tuple(channels)
        self.seen = Seen()
        # Authenticated requests that were answered, and those of which nobody knows.
        self.calls = 0
        self.calls_lost = 0
        self.foreign: list[str] = []
        self.started = datetime.now(UTC)
        self._chance = chance
        self._made = 0
        self._agents: list[Client] = []

    async def set_up(self, agents: int) -> None:
        """Make the channels and the agents, and connect these."""
        for channel in self.channels:
            answer = await self.call("POST", "/channels", json={"name": channel, "channel_id": channel})
            assert answer is not None and answer.status_code == 201, answer
        quickly = ReconnectPolicy(longest_delay=2.0, startup_patience=60.0)
        for _ in range(agents):
            self._agents.append(await self.tenant.agent(reconnect=quickly))
            self.calls += 1

    @property
    def publishers(self) -> list[str]:
        """Everybody who publishes."""
        return [PERSON, *(agent.agent_id for agent in self._agents)]

    async def listen(self) -> None:
        """Note what is received, until cancelled."""
        async for message in await self._agents[0].subscribe(*self.channels, queue_size=100_000):
            data = message.data["t"] if isinstance(message.data, dict) else message.data
            tag = data.partition(":")[0]
            self.seen.heard.add(tag)
            if not tag.startswith(self.tenant.tenant_id):
                self.foreign.append(tag)

    async def publish(self, stop: asyncio.Event) -> None:
        """Have everybody publish, each one message at a time, until told to stop."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish_as_person(stop))
            for agent in self._agents:
                group.create_task(self._publish_as(agent, stop))

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """Send a request as the owner; None where it was not answered by the service."""
        try:
            answer: httpx.Response = await self.tenant.call(method, path, **options)
        except httpx.HTTPError:
            self.calls_lost += 1
            return None
        if answer.status_code >= 500:
            self.calls_lost += 1
        else:
            self.calls += 1
        return answer

    async def usage(self) -> tuple[Usage, dict[str, Any]] | None:
        """Return the figures since the start, and the totals; None while they cannot be had."""
        days = {"start_date": f"{self.started:%Y-%m-%d}", "end_date": f"{datetime.now(UTC):%Y-%m-%d}"}
        by: dict[str, dict[str, Figures]] = {}
        totals: dict[str, Any] = {}
        for kind in ("agent", "channel"):
            answer = await self.call("GET", "/usage/metrics", params={**days, "group_by": kind})
            if answer is None or answer.status_code != 200:
                return None
            totals = answer.json()["totals"]
            by[kind] = {
                group[f"{kind}_id"]: (group["messages"], group["bytes_in"]) for group in totals["groups"]
            }
        # A person is in no group: what is in no agent's figures is theirs.
        of_agents = [sum(each) for each in zip(*by["agent"].values(), strict=True)] or [0, 0]
        by["agent"][PERSON] = (totals["messages"] - of_agents[0], totals["bytes_in"] - of_agents[1])
        return Usage(by["agent"], by["channel"]), totals

    async def _publish_as(self, agent: Client, stop: asyncio.Event) -> None:
        while not stop.is_set():
            message = self._message(agent.agent_id, extra=len('""'))
            data = f"{message.tag}:".ljust(message.size - len('""'), "x")
            try:
                await agent.publish(message.channel, data, timeout=ANSWER_SECONDS)
                self._note("accepted", message)
            except (CommandError, NotConnected):
                self._note("refused", message)
                await asyncio.sleep(0.2)
            except OutcomeUnknown:
                self._note("lost", message)
            except ArtcafeError as error:
                raise AssertionError(f"{agent.agent_id} ended: {error}") from error
            await asyncio.sleep(self._chance.uniform(0.02, 0.12))

    async def _publish_as_person(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            message = self._message(PERSON, extra=len('{"t":""}'))
            body = '{"t":"' + f"{message.tag}:".ljust(message.size - len('{"t":""}'), "x") + '"}'
            answer = await self.call(
                "POST",
                f"/channels/{message.channel}/messages",
                content=body,
                headers={"Content-Type": "application/json"},
            )
            if answer is not None and answer.status_code == 200:
                self._note("accepted", message)
            elif answer is not None and answer.status_code == 503 and _refused_itself(answer):
                self._note("refused", message)
            else:
                self._note("lost", message)
            await asyncio.sleep(self._chance.uniform(0.1, 0.4))

    def _message(self, publisher: str, extra: int) -> Message:
        self._made += 1
        tag = f"{self.tenant.tenant_id}.{self._made}"
        size = max(self._chance.randrange(*SIZES), len(tag) + 1 + extra)
        return Message(tag, publisher, self._chance.choice(self.channels), size)

    def _note(self, outcome: Outcome, message: Message) -> None:
        getattr(self.seen, outcome).append(message)


def _refused_itself(answer: httpx.Response) -> bool:
    """Whether a 503 is registry's own: it says so in the moment in which it would have counted."""
    return answer.headers.get("content-type") == "application/problem+json" and "message bus" in answer.text
