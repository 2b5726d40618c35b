"""What cannot be counted, on real NATS and Valkey: put aside alone and once, counted once when put back."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import msgspec
import pytest

from artcafe_common.clock import SystemClock
from artcafe_common.contracts.metering import UsageBatch, UsageRow
from artcafe_metering import batches, intake, keys, metrics, stubborn
from artcafe_metering.backlog import Backlog
from artcafe_metering.metrics import BATCHES
from artcafe_metering.requeue import requeue

DEAD = BATCHES.labels("dead")
SPOILT = [UsageRow("bad", "a1", "c1", messages=8), UsageRow("t1", "a1", "c1", messages=1)]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let refused batches come again at once, and be given up soon."""
    monkeypatch.setattr(intake, "RETRY_ONE_SECONDS", 0.2)
    monkeypatch.setattr(stubborn, "TRIES_MAX", 3)


async def buried(sender: Any) -> int:
    """Return how many messages are in USAGE_DEAD."""
    return int((await sender.bus.jetstream().stream_info("USAGE_DEAD")).state.messages)


async def put_back(sender: Any, *, really: bool = True, now: float | None = None) -> list[str]:
    """Put back what was put aside; return what was said."""
    said: list[str] = []
    now = now or time.time()
    await requeue(sender.bus.jetstream(), now - 20 * 86_400, now, said.append, really=really)
    return said


async def read_anew(sender: Any, until: Any) -> None:
    """Have the stream read from its beginning, and wait until that is done."""
    await sender.bus.jetstream().delete_consumer("USAGE", "metering")

    async def done() -> bool:
        try:
            info = await sender.bus.jetstream().consumer_info("USAGE", "metering")
        except Exception:
            return False
        return bool(info.num_pending == info.num_ack_pending == 0 and info.delivered.consumer_seq)

    await until(done)


async def send_until_buried(sender: Any, until: Any) -> int:
    """Send more of ``s1`` until its first batch, being the only one refused, is put aside; count all."""
    seq = 1

    async def one_more() -> int:
        nonlocal seq
        seq += 1
        await sender.batch("s1", seq)
        return await buried(sender)

    await until(one_more, 1)
    return seq


async def test_a_batch_that_alone_is_refused_is_put_aside_and_counts_once_when_it_is_put_back(
    sender: Any, replica_of: Any, store: Any, batch_of: Any, until: Any, impatient: None
) -> None:
    """Only the rows of the tenant whose counters refuse them are; in between neither lost nor twice."""
    before = DEAD._value.get()
    spoilt = keys.month_key("bad", batch_of("s1", 1).hour.date())
    await store.redis.set(spoilt, "no hash")
    await replica_of()
    await sender.batch("s1", 1, *SPOILT)
    seq = await send_until_buried(sender, until)
    await until(sender.unacknowledged, 0)
    assert await store.messages("t1") == seq
    message = await sender.bus.jetstream().get_msg("USAGE_DEAD", 1)
    assert message.subject == "usage.v1.dead.s1"
    assert "WRONGTYPE" in message.headers["Artcafe-Reason"]
    kept = msgspec.json.decode(message.data or b"", type=UsageBatch)
    assert (kept.source, kept.seq, kept.rows) == ("s1", 1, SPOILT[:1])
    assert (await buried(sender), DEAD._value.get() - before) == (1, 1)
    await store.redis.delete(spoilt)
    assert (await put_back(sender, really=False))[-1].startswith("1 can be put back")
    assert (await buried(sender), await store.messages("bad")) == (1, 0)
    await put_back(sender)
    await until(lambda: store.messages("bad"), 8)
    assert await put_back(sender) == ["0 put back, 0 left"]
    assert await buried(sender) == 0
    await read_anew(sender, until)
    assert (await store.messages("bad"), await store.messages("t1")) == (8, seq)
    # All of its batches are done: the source has no hole.
    assert await store.redis.bitcount(keys.source_key("s1"), 16, -1) == seq + 1


@pytest.mark.parametrize(
    ("setting", "value", "normal"), [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")]
)
async def test_nothing_is_put_aside_for_a_valkey_in_trouble(
    sender: Any,
    replica_of: Any,
    store: Any,
    until: Any,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    value: str,
    normal: str,
) -> None:
    """A Valkey that is full or may not write refuses everything; what it refused is counted afterwards."""
    monkeypatch.setattr(stubborn, "TRIES_MAX", 1)
    await replica_of()
    await sender.batch("s1", 1)
    await until(lambda: store.messages("t1"), 1)
    await store.redis.config_set(setting, value)
    retried = BATCHES.labels("retried")
    before = retried._value.get()
    await sender.batch("s1", 2, *SPOILT)

    async def refused_often() -> bool:
        return bool(retried._value.get() - before >= 3)

    await until(refused_often)
    assert await buried(sender) == 0
    await store.redis.config_set(setting, normal)
    await until(sender.unacknowledged, 0)
    assert (await store.messages("t1"), await store.messages("bad")) == (2, 8)
    assert await buried(sender) == 0


async def test_bad_rows_are_put_aside_alone_and_once(
    sender: Any, replica_of: Any, store: Any, until: Any
) -> None:
    """Good rows of the same batch are counted; read anew they are not stored or told of again."""
    before = DEAD._value.get()
    await replica_of()
    good = [UsageRow("t1", "a1", messages=1), UsageRow("t2", messages=2)]
    await sender.batch("s1", 1, *good, UsageRow("t1", "a*", messages=4), UsageRow("../t3", messages=8))
    await sender.raw("s1", b"no batch")
    await sender.batch("s1", 2, *good)
    await until(sender.unacknowledged, 0)
    for _ in range(2):
        assert (await store.messages("t1"), await store.messages("t2")) == (2, 4)
        assert (await buried(sender), DEAD._value.get() - before) == (2, 2)
        await read_anew(sender, until)
    message = await sender.bus.jetstream().get_msg("USAGE_DEAD", 1)
    assert message.headers["Artcafe-Reason"] == "2 of 4 rows: an agent_id is not valid"
    rows = msgspec.json.decode(message.data or b"", type=UsageBatch).rows
    assert [row.messages for row in rows] == [4, 8]
    # What still is bad stays.
    assert (await put_back(sender))[-1] == "0 put back, 2 left"
    assert await buried(sender) == 2
    # As long as a batch may come again.
    jetstream = sender.bus.jetstream()
    window = (await jetstream.stream_info("USAGE_DEAD")).config.duplicate_window
    assert window == (await jetstream.stream_info("USAGE")).config.max_age


async def test_rows_that_a_newer_version_can_read_count_once_whatever_happens(
    sender: Any, replica_of: Any, store: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put back twice, with the stream read anew by the newer version, and with the counters lost then."""
    await replica_of()
    # A hole below them: the stream's own copies are looked at again whenever they come.
    await sender.batch("s1", 3, UsageRow("t1", "a1", messages=1), UsageRow("t1", "a*", messages=4))
    await sender.batch("s1", 4, UsageRow("t1", "a1", messages=1), UsageRow("t2", "a*", messages=8))
    await until(sender.unacknowledged, 0)
    assert (await store.messages("t1"), await store.messages("t2")) == (2, 0)
    monkeypatch.setattr(batches, "_wrong_id", lambda *_: "")
    await read_anew(sender, until)
    assert (await store.messages("t1"), await store.messages("t2")) == (2, 0)
    jetstream = sender.bus.jetstream()
    dead = [await jetstream.get_msg("USAGE_DEAD", place) for place in (1, 2)]
    assert (await put_back(sender))[-1] == "2 put back, 0 left"
    await until(lambda: store.messages("t2"), 8)
    for message in dead:
        await jetstream.publish(message.headers["Artcafe-Subject"], message.data)
    await until(sender.unacknowledged, 0)
    assert (await store.messages("t1"), await store.messages("t2")) == (6, 8)
    await store.redis.flushall()
    await read_anew(sender, until)
    assert (await store.messages("t1"), await store.messages("t2")) == (6, 8)


async def test_what_an_older_version_has_put_aside_can_be_put_back(
    sender: Any, replica_of: Any, store: Any, until: Any
) -> None:
    """Its messages do not say where they belong: under the source by which they are stored."""
    await replica_of()
    row = UsageRow("t1", messages=3)
    data = msgspec.json.encode(UsageBatch(source="s9", seq=1, start=time.time(), end=time.time(), rows=[row]))
    headers = {"Nats-Msg-Id": "USAGE:7", "Artcafe-Reason": "not a usage batch"}
    await sender.bus.jetstream().publish("usage.v1.dead.s9", data, headers=headers)
    await put_back(sender)
    await until(lambda: store.messages("t1"), 3)


async def test_what_may_have_been_counted_too_long_ago_stays(
    sender: Any, replica_of: Any, store: Any, batch_of: Any, until: Any, impatient: None
) -> None:
    """Read anew after its cause was mended it counts, and is not counted again when that is forgotten."""
    spoilt = keys.month_key("bad", batch_of("s1", 1).hour.date())
    await store.redis.set(spoilt, "no hash")
    await replica_of()
    await sender.batch("s1", 1, *SPOILT)
    await send_until_buried(sender, until)
    await store.redis.delete(spoilt)
    later = time.time() + 16 * 86_400
    assert (await put_back(sender, really=False, now=later))[-1].startswith("1 can be put back")
    await read_anew(sender, until)
    await until(lambda: store.messages("bad"), 8)
    async for key in store.redis.scan_iter(match="*s1*"):
        await store.redis.delete(key)
    assert (await put_back(sender, now=later))[-1] == "0 put back, 1 left"
    assert (await buried(sender), await store.messages("bad")) == (1, 8)
    # As long as that is remembered it can be put back.
    assert (await put_back(sender, really=False))[-1].startswith("1 can be put back")


async def test_the_age_of_a_batch_that_is_refused_is_seen(
    sender: Any, replica_of: Any, store: Any, batch_of: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no backlog, being delivered; that it is not done shows by its age, until it is."""
    monkeypatch.setattr(intake, "RETRY_ONE_SECONDS", 0.2)
    spoilt = keys.month_key("bad", batch_of("s1", 1).hour.date())
    await store.redis.set(spoilt, "no hash")
    await replica_of()
    backlog = Backlog(sender.bus.jetstream(), SystemClock())
    await sender.batch("s1", 1, UsageRow("bad", messages=1))
    await sender.batch("s1", 2)
    await until(lambda: store.messages("t1"), 1)
    await until(sender.unacknowledged, 1)
    await backlog.look()
    first = metrics.OLDEST_AGE._value.get()
    assert (metrics.BACKLOG._value.get(), metrics.OUT._value.get()) == (0, 1)

    async def grows() -> bool:
        await backlog.look()
        return bool(metrics.OLDEST_AGE._value.get() > first > 0)

    await until(grows)
    await store.redis.delete(spoilt)
    await until(sender.unacknowledged, 0)
    await backlog.look()
    assert (metrics.OLDEST_AGE._value.get(), metrics.OUT._value.get()) == (0, 0)


async def test_the_command_lists_and_puts_back(
    nats: Any, valkey: Any, sender: Any, replica_of: Any, store: Any, until: Any
) -> None:
    """`requeue-dead` changes nothing without --yes, and ends with 1 where something stays."""
    await replica_of()
    await sender.raw("s1", b"no batch")
    await until(sender.unacknowledged, 0)
    data = msgspec.json.encode(
        UsageBatch(source="s1", seq=1, start=time.time(), end=time.time(), rows=[UsageRow("t1", messages=2)])
    )
    await sender.bus.jetstream().publish("usage.v1.dead.s1", data)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    environment |= {"NATS_URL": nats.url, "REDIS_URL": valkey.url}

    async def run(*arguments: str) -> tuple[int | None, str]:
        command = [sys.executable, "-m", "artcafe_metering", "requeue-dead", *arguments]
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return process.returncode, out.decode()

    status, text = await run()
    assert (status, text.splitlines()[-1]) == (1, "1 can be put back: add --yes, 1 left")
    assert (await buried(sender), await store.messages("t1")) == (2, 0)
    status, text = await run("--yes")
    assert (status, text.splitlines()[-1]) == (1, "1 put back, 1 left")
    assert "stays: not JSON" in text
    await until(lambda: store.messages("t1"), 2)
    assert await buried(sender) == 1
