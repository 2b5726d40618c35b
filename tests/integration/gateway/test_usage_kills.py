"""What a gateway that is killed had counted is found on its disk, and in the stream exactly once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from .test_usage import Meter, meter, nats_url

__all__ = ["meter", "nats_url"]

WINDOW = 50


class Writer:
    """An agent that publishes as fast as it is answered, and notes what it was told."""

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id
        self.accepted = 0
        self.unanswered = 0
        self._busy = asyncio.Event()

    async def is_busy(self) -> None:
        """Wait until some were accepted on the running connection."""
        async with asyncio.timeout(60):
            await self._busy.wait()

    async def run(self, client: Any) -> None:
        """Publish until the connection is lost."""
        sent = answered = 0
        with suppress(ConnectionClosed):
            while True:
                while sent - answered < WINDOW:
                    await client.send(type="publish", channel="room", data="x" * 8, id=sent)
                    sent += 1
                while True:
                    answer = json.loads(await client.socket.recv())
                    if answer["type"] == "published":
                        answered += 1
                        if answered == WINDOW:
                            self._busy.set()
                        break
        # Answers that were on their way when it ended are still read.
        with suppress(ConnectionClosed):
            while True:
                answered += json.loads(await client.socket.recv())["type"] == "published"
        self._busy.clear()
        self.accepted += answered
        self.unanswered += sent - answered


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A folder of state that outlives gateways."""
    folder = tmp_path / "state"
    folder.mkdir()
    yield folder


async def counted(meter: Meter, writer: Writer, state: Path) -> list[float]:
    """Wait until no file of a dead process is left, and return what is in the stream of a writer."""
    async with asyncio.timeout(60):
        while len(list((state / "usage").glob("*.counters"))) > 1:
            await asyncio.sleep(0.1)
    messages = await meter.messages()
    return messages.get(("t1", writer.agent_id, "room"), [0, 0, 0, 0])


async def test_a_gateway_killed_under_load_loses_and_doubles_nothing(
    spawn_gateway: Any, meter: Meter, state: Path
) -> None:
    """Of five lives that end by SIGKILL all that was accepted is counted; more only of what got no answer."""
    writer = Writer("writer")
    for _ in range(5):
        gateway = await spawn_gateway(ARTCAFE_STATE_DIR=state)
        writing = asyncio.create_task(writer.run(await gateway.agent(writer.agent_id)))
        await writer.is_busy()
        await asyncio.sleep(0.5)
        gateway.process.kill()
        await writing
    await spawn_gateway(ARTCAFE_STATE_DIR=state)
    messages, _, size, _ = await counted(meter, writer, state)
    assert writer.accepted > 0
    assert writer.accepted <= messages <= writer.accepted + writer.unanswered
    assert size == messages * 10


async def test_a_worker_that_is_killed_is_made_up_for_by_the_others(
    spawn_gateway: Any, meter: Meter, state: Path
) -> None:
    """What one worker of several had counted is sent, once, by those beside it and after it."""
    gateway = await spawn_gateway(ARTCAFE_STATE_DIR=state, workers=2)
    async with asyncio.timeout(60):
        # One of them is enough to be connected to.
        while sum(record["event"] == "gateway_ready" for record in gateway.log) < 2:
            await asyncio.sleep(0.1)
    writer = Writer("writer")
    writing = asyncio.create_task(writer.run(await gateway.agent(writer.agent_id)))
    await writer.is_busy()
    await asyncio.sleep(0.5)
    started = [record for record in gateway.log if record["event"] == "service_starting"]
    for record in started:
        if record["pid"] != gateway.process.pid:
            os.kill(record["pid"], signal.SIGKILL)
    await writing
    async with asyncio.timeout(60):
        while sum(record["event"] == "usage_recovered" for record in gateway.log) < 2:
            await asyncio.sleep(0.1)
    messages, _, size, _ = (await meter.messages())["t1", "writer", "room"]
    assert writer.accepted <= messages <= writer.accepted + writer.unanswered
    assert size == messages * 10


async def test_what_waits_for_nats_survives_the_gateway(
    spawn_gateway: Any, own_nats: Any, meter: Meter, state: Path
) -> None:
    """NATS goes away, then the gateway: what was accepted before is counted when both are back."""
    gateway = await spawn_gateway(ARTCAFE_STATE_DIR=state)
    writer = await gateway.agent("writer")
    for number in range(100):
        await writer.send(type="publish", channel="room", data="x" * 8, id=number)
    for number in range(100):
        await writer.until("published", id=number)
    await asyncio.to_thread(own_nats.server.kill)
    await writer.until("service_status", status="degraded")
    gateway.process.kill()
    await asyncio.to_thread(own_nats.server.start)
    await spawn_gateway(ARTCAFE_STATE_DIR=state)
    assert (await counted(meter, Writer("writer"), state))[:3:2] == [100, 1000]


async def test_without_a_folder_it_runs_and_says_what_that_means(spawn_gateway: Any, tmp_path: Path) -> None:
    """No state folder is told once; one that is no use stops the start with one line."""
    gateway = await spawn_gateway()
    told = [record for record in gateway.log if record["event"] == "usage_in_memory_only"]
    assert [record["level"] for record in told] == ["WARNING"]
