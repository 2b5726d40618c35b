"""Usage batches on their way to the stream, on a real nats-server with JetStream."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from artcafe_common.bus import Bus
from artcafe_common.clock import SystemClock
from artcafe_common.contracts.metering import UsageBatch
from artcafe_common.starting import cancel_all
from artcafe_common.streams import USAGE, ensure_stream
from artcafe_common.usage import UsageCounter, UsageReporter, reporter, span
from artcafe_common.usage.counter_file import open_counter_file
from artcafe_devstack.servers import RunningServer, nats_server

from .common_support import PATIENCE_SECONDS, opened, until

PUBLISHER = """
import asyncio, os, resource, sys
from artcafe_common.bus import Bus
from artcafe_common.clock import SystemClock
from artcafe_common.usage import UsageCounter, UsageReporter, reporter
from artcafe_common.usage.counter_file import open_counter_file

reporter.INTERVAL_SECONDS = reporter.LEFTOVERS_SECONDS = 0.02

async def main(url, folder, small=""):
    if small:
        # As on a disk without room for more.
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    bus = await Bus.open(url, name="publisher")
    counter = UsageCounter(SystemClock(), open_counter_file(folder, SystemClock()))
    reporting = asyncio.create_task(UsageReporter(bus, counter).run())
    number = 0
    while True:
        for _ in range(50):
            counter.message(counter.now(), "t", f"a{number % 90}", "c", 10)
            # What the publisher sees as accepted.
            os.write(1, b".")
            number += 1
        await asyncio.sleep(0)

asyncio.run(main(*sys.argv[1:]))
"""


class HalfPast(SystemClock):
    """A clock that is at half past when it is made: an hour that turns closes a batch early."""

    def __init__(self) -> None:
        self._ahead = 1800 - time.time() % 3600

    def now(self) -> float:
        """Return seconds since the Unix epoch, but for the time of the hour."""
        return time.time() + self._ahead


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


@pytest.fixture(params=["memory", "file"])
def counter(request: pytest.FixtureRequest, tmp_path: Path) -> UsageCounter:
    """An empty counter, without and with a file."""
    return _counter(tmp_path) if request.param == "file" else UsageCounter(HalfPast())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches leave often."""
    monkeypatch.setattr(reporter, "INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(reporter, "LEFTOVERS_SECONDS", 0.05)


@asynccontextmanager
async def _running(reporter: UsageReporter) -> AsyncIterator[None]:
    task = asyncio.create_task(reporter.run())
    try:
        yield
    finally:
        await cancel_all([task])


def _counter(folder: Path) -> UsageCounter:
    clock = HalfPast()
    return UsageCounter(clock, open_counter_file(str(folder), clock))


def _files(folder: Path) -> list[Path]:
    return list((folder / "usage").glob("*"))


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
    await ensure_stream(bus.jetstream(), USAGE)
    reporter = UsageReporter(bus, counter)
    async with _running(reporter):
        for _ in range(3):
            _count(counter)
            await until(lambda: not reporter._waiting and not counter._tallies)
        # Nothing has happened since.
        await asyncio.sleep(0.2)
    batches = await _stored(bus)
    assert [batch.seq for batch in batches] == [1, 2, 3]
    assert {batch.source for batch in batches} == {reporter.source}
    assert _messages(batches) == 3


async def test_batch_waits_for_its_stream(
    bus: Bus, counter: UsageCounter, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a stream nothing is lost: counts add up and arrive in order later, and the log says why."""
    reporter = UsageReporter(bus, counter)
    async with _running(reporter):
        _count(counter)
        await until(lambda: bool(reporter._waiting))
        for _ in range(3):
            _count(counter)
            await asyncio.sleep(0.1)
        await ensure_stream(bus.jetstream(), USAGE)
        await until(lambda: not reporter._waiting and not counter._tallies)
    told = [record for record in caplog.records if record.message == "usage_not_acknowledged"]
    assert told and "metering creates it" in told[0].__dict__["reason"]
    batches = await _stored(bus)
    assert [batch.seq for batch in batches] == [1, 2]
    assert _messages(batches) == 4


async def test_batch_is_stored_once_however_often_it_is_sent(bus: Bus, counter: UsageCounter) -> None:
    """A batch whose acknowledgement was lost is sent again under the same name and not stored twice."""
    await ensure_stream(bus.jetstream(), USAGE)
    reporter = UsageReporter(bus, counter)
    _count(counter)
    [taken] = counter.take()
    assert await reporter._send(taken)
    # As if no acknowledgement had come.
    taken.acknowledged = 0
    assert await reporter._send(taken)
    assert [batch.seq for batch in await _stored(bus)] == [1]


async def test_nats_killed_while_counting_loses_and_doubles_nothing(
    nats: RunningServer, bus: Bus, counter: UsageCounter, quick: None
) -> None:
    """Over several kills of NATS every message is in the stream exactly once."""
    await ensure_stream(bus.jetstream(), USAGE)
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
        await until(lambda: not reporter._waiting and not counter._tallies)
    batches = await _stored(bus)
    assert [batch.seq for batch in batches] == list(range(1, len(batches) + 1))
    assert _messages(batches) == counted


async def test_last_batch_leaves_when_the_process_ends(bus: Bus, counter: UsageCounter) -> None:
    """What was counted since the last batch is sent at the end."""
    await ensure_stream(bus.jetstream(), USAGE)
    reporter = UsageReporter(bus, counter)
    async with _running(reporter):
        _count(counter)
    await reporter.finish(PATIENCE_SECONDS)
    assert _messages(await _stored(bus)) == 1


async def test_end_waits_for_nats_but_not_for_ever(
    nats: RunningServer, bus: Bus, counter: UsageCounter, caplog: pytest.LogCaptureFixture
) -> None:
    """At the end a batch waits for NATS as long as it may, then it is told; a file keeps it for the next."""
    await ensure_stream(bus.jetstream(), USAGE)
    nats.kill()
    await until(lambda: not bus.is_connected)
    reporter = UsageReporter(bus, counter)
    _count(counter)
    started = time.monotonic()
    await reporter.finish(0.5)
    assert 0.4 < time.monotonic() - started < 8
    told = "usage_not_delivered" if counter.file is None else "usage_left_behind"
    assert told in [record.message for record in caplog.records]
    if counter.file is None:
        finishing = asyncio.create_task(reporter.finish(PATIENCE_SECONDS))
        nats.start()
        await finishing
    else:
        nats.start()
        async with _running(UsageReporter(bus, _counter(counter.file.folder.parent))):
            await until(lambda: counter.file is not None and not counter.file.path.exists())
    assert _messages(await _stored(bus)) == 1


class Late(UsageReporter):
    """A reporter whose process counts something more while a batch is on its way."""

    more = 2

    async def _send_batch(self, batch: UsageBatch) -> bool:
        if self.more:
            self.more -= 1
            _count(self._counter)
        return await super()._send_batch(batch)


async def test_what_is_counted_while_the_last_batch_is_sent_is_sent_too(
    bus: Bus, counter: UsageCounter
) -> None:
    """The counter file is not removed over something that was counted after the last look."""
    await ensure_stream(bus.jetstream(), USAGE)
    reporter = Late(bus, counter)
    _count(counter)
    await reporter.finish(PATIENCE_SECONDS)
    assert counter.file is None or not counter.file.path.exists()
    assert _messages(await _stored(bus)) == 3


async def test_rows_with_the_longest_ids_fit(bus: Bus, counter: UsageCounter) -> None:
    """However long ids are, no batch is over the limit of NATS, and all rows arrive."""
    await ensure_stream(bus.jetstream(), USAGE)
    reporter = UsageReporter(bus, counter)
    rows = 2 * span.ROWS_PER_BATCH
    for number in range(rows):
        name = f"{number:064}"
        counter.message(counter.now(), "t" * 64, name, f"{'c' * 63}.{name}", 10**6)
    await reporter.finish(PATIENCE_SECONDS)
    batches = await _stored(bus)
    assert sum(len(batch.rows) for batch in batches) == rows
    assert [batch.seq for batch in batches] == list(range(1, len(batches) + 1))


async def test_an_hour_is_one_batch_however_long_nats_is_away(bus: Bus, counter: UsageCounter) -> None:
    """While nothing can be sent counts add up: what waits grows with those who publish, not with time."""
    reporter = UsageReporter(bus, counter)
    for _ in range(20):
        _count(counter)
        await reporter._round()
    # No stream yet: the first batch waits, and one more for all that came after it.
    assert [waiting.messages for waiting in reporter._waiting] == [1]
    await ensure_stream(bus.jetstream(), USAGE)
    await reporter._round()
    assert [_messages([batch]) for batch in await _stored(bus)] == [1, 19]


async def test_several_processes_send_what_one_has_left_once(
    bus: Bus, tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Of many that look for leftovers at once each file is taken by one, under its old name."""
    caplog.set_level("INFO")
    await ensure_stream(bus.jetstream(), USAGE)
    dead = [_counter(tmp_path) for _ in range(5)]
    for counter in dead:
        _count(counter)
        assert counter.file is not None
        # What the end of a process does: its lock is gone.
        counter.file.close(remove=False)
    living = [UsageReporter(bus, _counter(tmp_path)) for _ in range(5)]
    running = [asyncio.create_task(each.run()) for each in living]
    await until(lambda: len(_files(tmp_path)) == len(living))
    await cancel_all(running)
    for each in living:
        await each.finish(PATIENCE_SECONDS)
    batches = await _stored(bus)
    assert sorted((batch.source, batch.seq) for batch in batches) == sorted((each.source, 1) for each in dead)
    recovered = [record for record in caplog.records if record.message == "usage_recovered"]
    assert len(recovered) == len(dead)
    assert _files(tmp_path) == []


async def test_a_leftover_waits_for_the_stream(bus: Bus, tmp_path: Path, quick: None) -> None:
    """What could not be sent stays where it is."""
    dead = _counter(tmp_path)
    _count(dead)
    assert dead.file is not None
    dead.file.close(remove=False)
    async with _running(UsageReporter(bus, _counter(tmp_path))):
        await asyncio.sleep(0.3)
        assert dead.file.path.exists()
        await ensure_stream(bus.jetstream(), USAGE)
        await until(lambda: dead.file is not None and not dead.file.path.exists())
    assert _messages(await _stored(bus)) == 1


async def test_without_room_what_came_first_is_kept(
    bus: Bus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When as much waits as may, it is kept, and what is new is lost and told so."""
    counter = UsageCounter(SystemClock(), open_counter_file(str(tmp_path), SystemClock()), rows_max=10)
    reporting = UsageReporter(bus, counter)
    for number in range(10):
        _count(counter, f"c{number}")
        await reporting._round()
    for number in range(15):
        _count(counter, f"c{number}")
    await reporting._round()
    events = [record.message for record in caplog.records]
    assert events.count("usage_nearly_full") == 1
    assert sum(r.__dict__["messages"] for r in caplog.records if r.message == "usage_lost") == 6
    await ensure_stream(bus.jetstream(), USAGE)
    await reporting.finish(PATIENCE_SECONDS)
    assert _messages(await _stored(bus)) == 19


async def test_on_a_full_disk_usage_is_still_sent(nats: RunningServer, bus: Bus, tmp_path: Path) -> None:
    """A process whose file cannot grow counts in memory what is not in it, and says so."""
    await ensure_stream(bus.jetstream(), USAGE)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PUBLISHER, nats.url, str(tmp_path), "small"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    told: list[bytes] = []
    while b"usage_not_on_disk\n" not in told:
        told.append(await process.stderr.readline())
        assert told[-1], b"".join(told)
    rows: set[str] = set()
    async with asyncio.timeout(2 * PATIENCE_SECONDS):
        while len(rows) < 90:
            rows |= {row.agent_id for batch in await _stored(bus) for row in batch.rows}
    process.kill()
    await process.communicate()


async def test_a_process_killed_at_any_moment_loses_and_doubles_nothing(
    nats: RunningServer, bus: Bus, tmp_path: Path
) -> None:
    """Of twelve lives that end by SIGKILL, with NATS killed too, every message told is in the stream once."""
    await ensure_stream(bus.jetstream(), USAGE)
    chance = random.Random(1)
    told = lives = 0

    async def live(seconds: float) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PUBLISHER, nats.url, str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        count = len(await process.stdout.read(1))
        assert count == 1
        killing = asyncio.get_running_loop().call_later(seconds, os.kill, process.pid, signal.SIGKILL)
        while more := await process.stdout.read(65_536):
            count += len(more)
        killing.cancel()
        await process.wait()
        return count

    for lives in range(1, 13):
        if lives % 4 == 0:
            nats.kill()
            nats.start()
        told += await live(chance.uniform(0.01, 0.6))
    await until(lambda: bus.is_connected)
    counter = _counter(tmp_path)
    async with _running(UsageReporter(bus, counter)):
        await until(lambda: _files(tmp_path) == [counter.file and counter.file.path], 60)
    batches = await _stored(bus)
    assert len({(batch.source, batch.seq) for batch in batches}) == len(batches)
    rows = [row for batch in batches for row in batch.rows]
    counted = sum(row.messages for row in rows)
    # One that was counted in the moment before it could be told of, for each life.
    assert told <= counted <= told + lives
    assert sum(row.bytes_in for row in rows) == 10 * counted


async def test_stream_is_made_sure_of_by_several_at_once(bus: Bus) -> None:
    """Services that start together agree on one stream, and doing it again changes nothing."""
    jetstream = bus.jetstream()
    await asyncio.gather(*(ensure_stream(jetstream, USAGE) for _ in range(10)))
    before = (await jetstream.stream_info("USAGE")).config
    await ensure_stream(bus.jetstream(), USAGE)
    after = (await jetstream.stream_info("USAGE")).config
    assert after == before
    assert (after.subjects, after.max_age, after.duplicate_window) == (["usage.v1.batch.*"], 604_800, 600)
