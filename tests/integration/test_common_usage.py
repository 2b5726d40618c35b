"""Usage batches on their way to the stream, on a real nats-server with JetStream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from artcafe_common import metrics, usage
from artcafe_common.bus import Bus
from artcafe_common.clock import SystemClock
from artcafe_common.contracts.metering import UsageBatch
from artcafe_common.streams import USAGE, ensure_stream
from artcafe_common.usage import UsageCounter, UsageReporter, ensure_usage_stream
from artcafe_devstack.servers import RunningServer, nats_server

from .common_support import opened, until


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[RunningServer]:
    """A server of the test's own, since the stream has one name."""
    with nats_server(tmp_path) as server:
        yield server


@pytest.fixture
async def bus(nats: RunningServer) -> AsyncIterator[Bus]:
    """A bus on that server."""
    async with opened(nats.url) as connected:
        yield connected


@pytest.fixture
def counter() -> UsageCounter:
    """An empty counter."""
    return UsageCounter(SystemClock())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches leave often."""
    monkeypatch.setattr(usage, "INTERVAL_SECONDS", 0.05)


@asynccontextmanager
async def _running(reporter: UsageReporter) -> AsyncIterator[None]:
    task = asyncio.create_task(reporter.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _count(counter: UsageCounter, channel_id: str = "c") -> None:
    counter.message(counter.now(), "t", "a", channel_id, 10)


async def _stored(bus: Bus) -> list[UsageBatch]:
    jetstream = bus.jetstream()
    info = await jetstream.stream_info("USAGE")
    batches = []
    for seq in range(1, info.state.last_seq + 1):
        message = await jetstream.get_msg("USAGE", seq)
        assert message.data is not None
        batch = msgspec.json.decode(message.data, type=UsageBatch)
        assert message.headers == {"Nats-Msg-Id": f"{batch.source}:{batch.seq}"}
        assert message.subject == f"usage.v1.batch.{batch.source}"
        batches.append(batch)
    return batches


def _messages(batches: list[UsageBatch]) -> int:
    return sum(row.messages for batch in batches for row in batch.rows)


async def test_counts_reach_the_stream(bus: Bus, counter: UsageCounter, quick: None) -> None:
    """What is counted is in the stream soon, in numbered batches of one source, and nothing empty is sent."""
    await ensure_usage_stream(bus)
    reporter = UsageReporter(bus, counter)
    async with _running(reporter):
        for _ in range(3):
            _count(counter)
            await asyncio.sleep(0.1)
        await until(lambda: not reporter._pending and not counter._tallies)
    batches = await _stored(bus)
    assert [batch.seq for batch in batches] == [1, 2, 3]
    assert {batch.source for batch in batches} == {reporter.source}
    assert _messages(batches) == 3


async def test_batch_waits_for_its_stream(bus: Bus, counter: UsageCounter, quick: None) -> None:
    """Without a stream nothing is lost: batches arrive, in order, once there is one."""
    reporter = UsageReporter(bus, counter)
    async with _running(reporter):
        for _ in range(4):
            _count(counter)
            await asyncio.sleep(0.1)
        assert len(reporter._pending) >= 2
        await ensure_usage_stream(bus)
        await until(lambda: not reporter._pending)
    batches = await _stored(bus)
    assert [batch.seq for batch in batches] == list(range(1, len(batches) + 1))
    assert _messages(batches) == 4


async def test_batch_is_stored_once_however_often_it_is_sent(bus: Bus, counter: UsageCounter) -> None:
    """A batch whose acknowledgement was lost is sent again under the same name and not stored twice."""
    await ensure_usage_stream(bus)
    reporter = UsageReporter(bus, counter)
    _count(counter)
    reporter._collect()
    waiting = list(reporter._pending)
    assert await reporter._send()
    # As if no acknowledgement had come.
    reporter._pending.extend(waiting)
    assert await reporter._send()
    assert [batch.seq for batch in await _stored(bus)] == [1]


async def test_nats_killed_while_counting_loses_and_doubles_nothing(
    nats: RunningServer, bus: Bus, counter: UsageCounter, quick: None
) -> None:
    """Over several kills of NATS every message is in the stream exactly once."""
    await ensure_usage_stream(bus)
    reporter = UsageReporter(bus, counter)
    counted = 0
    async with _running(reporter):
        for _ in range(3):
            for _ in range(20):
                _count(counter, f"c{counted % 3}")
                counted += 1
                await asyncio.sleep(0.01)
            nats.kill()
            for _ in range(10):
                _count(counter)
                counted += 1
                await asyncio.sleep(0.01)
            nats.start()
            await until(lambda: bus.is_connected)
        await until(lambda: not reporter._pending and not counter._tallies)
    batches = await _stored(bus)
    assert [batch.seq for batch in batches] == list(range(1, len(batches) + 1))
    assert _messages(batches) == counted


async def test_last_batch_leaves_when_the_process_ends(bus: Bus, counter: UsageCounter) -> None:
    """What was counted since the last batch is sent at the end."""
    await ensure_usage_stream(bus)
    reporter = UsageReporter(bus, counter)
    async with _running(reporter):
        _count(counter)
    await reporter.finish(5)
    assert _messages(await _stored(bus)) == 1


async def test_end_waits_for_nats_but_not_for_ever(
    nats: RunningServer, bus: Bus, counter: UsageCounter, caplog: pytest.LogCaptureFixture
) -> None:
    """At the end a batch waits for NATS as long as it may, then it is logged as not delivered."""
    await ensure_usage_stream(bus)
    nats.kill()
    await until(lambda: not bus.is_connected)
    reporter = UsageReporter(bus, counter)
    _count(counter)
    started = time.monotonic()
    await reporter.finish(0.5)
    assert 0.4 < time.monotonic() - started < 2
    assert "usage_not_delivered" in [record.message for record in caplog.records]
    finishing = asyncio.create_task(reporter.finish(10))
    nats.start()
    await finishing
    assert _messages(await _stored(bus)) == 1


async def test_rows_with_the_longest_ids_fit(bus: Bus, counter: UsageCounter) -> None:
    """However long ids are, no batch is over the limit of NATS, and all rows arrive."""
    await ensure_usage_stream(bus)
    reporter = UsageReporter(bus, counter)
    rows = 2 * usage.ROWS_PER_BATCH
    for number in range(rows):
        name = f"{number:064}"
        counter.message(counter.now(), "t" * 64, name, f"{'c' * 63}.{name}", 10**6)
    await reporter.finish(10)
    batches = await _stored(bus)
    assert sum(len(batch.rows) for batch in batches) == rows
    assert [batch.seq for batch in batches] == list(range(1, len(batches) + 1))


async def test_waiting_batches_are_bounded(
    bus: Bus, counter: UsageCounter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a stream the oldest batches give way once too many wait, and that is seen."""
    monkeypatch.setattr(usage, "PENDING_BYTES_MAX", 1_000)
    lost = metrics.USAGE_BATCHES.labels("lost")._value.get()
    reporter = UsageReporter(bus, counter)
    for _ in range(20):
        _count(counter)
        reporter._collect()
    assert reporter._pending_bytes == sum(len(payload) for _, payload in reporter._pending) <= 1_000
    assert reporter._pending[-1][0] == 20
    gone = 20 - len(reporter._pending)
    assert metrics.USAGE_BATCHES.labels("lost")._value.get() - lost == gone > 0
    assert [r.message for r in caplog.records].count("usage_batch_lost") == gone


async def test_stream_is_made_sure_of_by_several_at_once(bus: Bus) -> None:
    """Services that start together agree on one stream, and doing it again changes nothing."""
    jetstream = bus.jetstream()
    await asyncio.gather(*(ensure_stream(jetstream, USAGE) for _ in range(10)))
    before = (await jetstream.stream_info("USAGE")).config
    await ensure_usage_stream(bus)
    after = (await jetstream.stream_info("USAGE")).config
    assert after == before
    assert (after.subjects, after.max_age, after.duplicate_window) == (["usage.v1.batch.*"], 604_800, 600)
