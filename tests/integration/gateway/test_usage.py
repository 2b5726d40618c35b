"""What a gateway reports to metering: every accepted message and every delivered copy, exactly once."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from artcafe_common.bus import Bus
from artcafe_common.contracts.metering import UsageBatch
from artcafe_common.contracts.registry import Limits
from artcafe_common.errors import ServiceError
from artcafe_common.streams import USAGE, ensure_stream
from artcafe_gateway import worker

PATIENCE_SECONDS = 30.0

Key = tuple[str, str, str]


class Meter:
    """Reads the stream USAGE from its beginning to its end."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def read(self) -> dict[Key, list[float]]:
        """Return [messages, deliveries, bytes in, bytes out, seconds] by (tenant, agent, channel)."""
        sums: dict[Key, list[float]] = defaultdict(lambda: [0, 0, 0, 0, 0.0])
        seen: set[tuple[str, int]] = set()
        jetstream = self._bus.jetstream(timeout=PATIENCE_SECONDS)
        last = await self._last(jetstream)
        for seq in range(1, last + 1):
            batch = msgspec.json.decode((await jetstream.get_msg("USAGE", seq)).data or b"", type=UsageBatch)
            assert (batch.source, batch.seq) not in seen
            seen.add((batch.source, batch.seq))
            for row in batch.rows:
                into = sums[row.tenant_id, row.agent_id, row.channel_id]
                for place, value in enumerate(
                    (row.messages, row.deliveries, row.bytes_in, row.bytes_out, row.connection_seconds)
                ):
                    into[place] += value
        return dict(sums)

    async def _last(self, jetstream: JetStreamContext) -> int:
        """Return the number of the last batch, as soon as NATS is there to tell it."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    return (await jetstream.stream_info("USAGE")).state.last_seq
                except (NatsError, ServiceError):
                    await asyncio.sleep(0.1)

    async def messages(self) -> dict[Key, list[float]]:
        """Return the sums without the seconds, and without what only has those."""
        sums = {key: counts[:4] for key, counts in (await self.read()).items()}
        return {key: counts for key, counts in sums.items() if any(counts)}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, a gateway of this process sends what it has counted before it ends."""
    monkeypatch.setattr(worker, "USAGE_FLUSH_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
def nats_url(own_nats: Any) -> str:
    """Give each of these tests a stream of its own."""
    url: str = own_nats.server.url
    return url


@pytest.fixture
async def meter(nats_url: str) -> AsyncIterator[Meter]:
    """Give a reader of the stream."""
    bus = await Bus.open(nats_url, name="meter")
    await ensure_stream(bus.jetstream(), USAGE)
    yield Meter(bus)
    await bus.close_gracefully()


def size(data: Any) -> int:
    """Return the bytes of data as the tests' client writes it."""
    return len(json.dumps(data).encode())


async def test_sums_are_exact(start_gateway: Any, meter: Meter) -> None:
    """Messages of known sizes to known subscribers over two gateways add up for each agent and channel."""
    one, two = await start_gateway("gateway-1"), await start_gateway("gateway-2")
    one.world.channel("t1", "people")
    writers = [await one.agent("w0"), await two.agent("w1")]
    readers = [await (one, two)[n % 2].agent(f"r{n}") for n in range(4)]
    await readers[0].subscribe("a", "b")
    await readers[1].subscribe("a", "*", ">")
    await readers[2].subscribe("b")
    await writers[0].subscribe("a")
    other = await two.agent("w0", "t2")
    await other.subscribe("a")
    desk = await one.dashboard("ann")
    for command in (
        {"type": "subscribe_channel", "channel_id": "people"},
        {"type": "subscribe_topic_preview"},
        {"type": "publish_channel", "channel_id": "people", "data": "from a person"},
    ):
        await desk.send(**command)
    await desk.until("published")
    expected: dict[Key, list[float]] = defaultdict(lambda: [0, 0, 0, 0])

    def count(agent: str, channel: str, data: Any, *, sent: bool) -> None:
        row = expected["t1", agent, channel]
        row[0 if sent else 1] += 1
        row[2 if sent else 3] += size(data)

    for number in range(60):
        writer, channel = number % 2, "ab"[number % 3 % 2]
        data = {"n": number, "text": "ü" * number, "raw": [1.50, None]}
        echo = number % 5 > 0
        await writers[writer].send(type="publish", channel=channel, data=data, echo=echo, id=number)
        await writers[writer].until("published", id=number)
        count(f"w{writer}", channel, data, sent=True)
        for reader in {"a": ["r0", "r1"], "b": ["r0", "r1", "r2"]}[channel]:
            count(reader, channel, data, sent=False)
        if channel == "a" and (writer == 1 or echo):
            count("w0", channel, data, sent=False)
    for refused in ({"channel": "*"}, {"channel": "tenant.t2.channel.a"}, {"channel": ""}):
        await writers[0].send(type="publish", data="x", id="r", **refused)
        await writers[0].until("error", id="r")
    expected["t1", "", "people"] = [1, 0, size("from a person"), 0]
    expected["t1", "r1", "people"] = [0, 1, 0, size("from a person")]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await meter.messages() != expected:
            await asyncio.sleep(0.2)
    assert ("t2", "w0", "a") not in await meter.messages()
    # Presence is nobody's message, and what is said while leaving changes nothing.
    await one.drain()
    await two.drain()
    assert await meter.messages() == expected


async def test_what_was_counted_last_is_flushed_at_a_stop(start_gateway: Any, meter: Meter) -> None:
    """Messages right before the end are in the stream when the process has ended."""
    gateway = await start_gateway(drain_seconds=0.1)
    writer, reader = await gateway.agent("writer"), await gateway.agent("reader")
    await reader.subscribe("room")
    for number in range(500):
        await writer.send(type="publish", channel="room", data=number)
    for number in range(500):
        await reader.expect("message", data=number)
    await gateway.drain()
    total = sum(size(number) for number in range(500))
    assert await meter.messages() == {
        ("t1", "writer", "room"): [500, 0, total, 0],
        ("t1", "reader", "room"): [0, 500, 0, total],
    }


async def test_what_publishers_saw_accepted_survives_a_restart_of_nats(
    start_gateway: Any, own_nats: Any, world: Any, meter: Meter
) -> None:
    """Batches that could not be sent wait; nothing is counted twice or lost."""
    gateway = await start_gateway()
    writer = await gateway.agent("writer")
    accepted = 0
    stop = asyncio.Event()

    async def write() -> None:
        nonlocal accepted
        number = 0
        while not stop.is_set():
            await writer.send(type="publish", channel="room", data="x", id=number)
            while True:
                answer = await writer.receive()
                if answer.get("id") == number:
                    break
            accepted += answer["type"] == "published"
            number += 1
            await asyncio.sleep(0.002)

    writing = asyncio.create_task(write())
    for _ in range(2):
        await asyncio.sleep(1.2)
        await asyncio.to_thread(own_nats.server.stop)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(own_nats.server.start)
    await asyncio.sleep(0.5)
    stop.set()
    await writing
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            counted = (await meter.messages()).get(("t1", "writer", "room"), [0])[0]
            if counted == accepted:
                break
            assert counted < accepted
            await asyncio.sleep(0.2)
    await gateway.drain()
    assert (await meter.messages())["t1", "writer", "room"] == [accepted, 0, accepted * 3, 0]


async def test_dropped_copies_are_not_deliveries(start_gateway: Any, meter: Meter) -> None:
    """A slow reader is counted for what its socket took, and not for what it was told to have missed."""
    gateway = await start_gateway(outbox_bytes=131_072)
    writer, fast, slow = [await gateway.agent(name) for name in ("writer", "fast", "slow")]
    await fast.subscribe("room")
    await slow.subscribe("room", policy="drop_oldest")
    slow.socket.transport.pause_reading()
    data = "x" * 30_000
    for _ in range(300):
        await writer.send(type="publish", channel="room", data=data)
        await fast.expect("message")
    slow.socket.transport.resume_reading()
    got = dropped = 0
    while got + dropped < 300:
        event = await slow.receive()
        got += event["type"] == "message"
        dropped += event.get("count", 0)
    await gateway.drain()
    sums = await meter.messages()
    assert dropped > 0
    assert sums["t1", "slow", "room"] == [0, got, 0, got * size(data)]
    assert sums["t1", "fast", "room"] == [0, 300, 0, 300 * size(data)]


async def test_refused_messages_count_nothing(start_gateway: Any, meter: Meter) -> None:
    """What is too large or over the rate is not billed."""
    gateway = await start_gateway()
    gateway.world.tenant("t1", limits=Limits(bytes_per_message=10, messages_per_second=2))
    alice = await gateway.agent("alice")
    accepted = 0
    for number in range(40):
        await alice.send(type="publish", channel="room", data="x" * (number % 20), id=number)
        accepted += (await alice.receive())["type"] == "published"
    await gateway.drain()
    assert (await meter.messages())["t1", "alice", "room"][0] == accepted


async def test_time_connected_adds_up(start_gateway: Any, meter: Meter) -> None:
    """The seconds of a connection are counted to its end."""
    gateway = await start_gateway()
    started = asyncio.get_running_loop().time()
    alice = await gateway.agent("alice")
    await asyncio.sleep(1.3)
    await alice.socket.close()
    longest = asyncio.get_running_loop().time() - started
    await gateway.drain()
    seconds = (await meter.read())["t1", "alice", ""][4]
    assert 1.3 <= seconds <= longest
