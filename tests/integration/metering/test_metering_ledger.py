"""Batches applied to real Valkey: each once, whatever order they come in and whatever crashes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from artcafe_common.contracts.metering import UsageRow
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_metering import commands, durability, keys, metrics, periods
from artcafe_metering.batches import Batch
from artcafe_metering.figures import Figures
from artcafe_metering.ledger import Ledger
from artcafe_metering.valkey import WriteSession


async def test_a_batch_is_counted_once_however_often_it_comes(
    ledger_of: Any, store: Any, batch_of: Any
) -> None:
    """The same batch, three times in one round and again in the next, counts once."""
    batch = batch_of("s1", 1)
    books = ledger_of()
    assert await books.apply([batch, batch, batch]) == [True, True, True]
    assert await books.apply([batch]) == [True]
    assert await store.messages("t1") == 1


async def test_a_later_batch_does_not_shut_out_an_earlier_one(
    ledger_of: Any, store: Any, batch_of: Any
) -> None:
    """Sequence 6 applied before 5 leaves room for 5, which a single watermark would lose."""
    books = ledger_of()
    for seq in (1, 6, 5, 6, 5, 2):
        await books.apply([batch_of("s1", seq)])
    assert await store.messages("t1") == 4


async def test_sources_do_not_know_each_other(ledger_of: Any, store: Any, batch_of: Any) -> None:
    """The same sequence of two sources is two batches."""
    await ledger_of().apply([batch_of("s1", 1), batch_of("s2", 1)])
    assert await store.messages("t1") == 2


async def test_tenants_that_are_missing_in_some_batches_are_counted_right(
    ledger_of: Any, store: Any, batch_of: Any
) -> None:
    """A tenant with rows in every third batch only has each of them counted once, and nothing of others."""
    books = ledger_of()
    batches = [
        batch_of(
            "s1", seq, UsageRow("often", messages=1), *([UsageRow("seldom", messages=1)] * (seq % 3 == 0))
        )
        for seq in range(1, 301)
    ]
    random.Random(1).shuffle(batches)
    for first in range(0, 300, 50):
        await books.apply(batches[first : first + 50])
    for _ in range(3):
        await books.apply(random.Random(2).choices(batches, k=200))
    assert await store.messages("often") == 300
    assert await store.messages("seldom") == 100


async def test_replicas_that_work_side_by_side_count_each_batch_once(
    ledger_of: Any, store: Any, batch_of: Any
) -> None:
    """Two replicas apply 9000 batches of two sources, shuffled and with a third repeated; windows are cut."""
    shuffler = random.Random(3)
    names = [(source, seq) for seq in range(1, 4501) for source in ("s1", "s2")]
    deliveries = [*names, *shuffler.choices(names, k=3000)]
    # Out of place by up to a thousand, as redelivery does.
    order = {index: index + shuffler.uniform(0, 1000) for index in range(len(deliveries))}
    ordered = [deliveries[index] for index in sorted(order, key=order.__getitem__)]
    rounds = [ordered[first : first + 250] for first in range(0, len(ordered), 250)]

    async def replica(own: list[list[tuple[str, int]]]) -> None:
        books = ledger_of()
        for names in own:
            rows = {"s1": UsageRow("t1", "a1", messages=1), "s2": UsageRow("t1", "a2", messages=2)}
            assert all(await books.apply([batch_of(source, seq, rows[source]) for source, seq in names]))

    await asyncio.gather(replica(rounds[::2]), replica(rounds[1::2]), replica(rounds[::3]))
    assert await store.messages("t1") == 4500 + 2 * 4500
    # Nothing is missing below, so both windows have become short.
    assert await store.redis.strlen(keys.source_key("s1")) < 600
    assert await store.redis.strlen(keys.applied_key("t1", "s1")) < 600
    # And a batch from below the window is known.
    await ledger_of().apply([batch_of("s1", 1, UsageRow("t1", messages=1))])
    assert await store.messages("t1") == 4500 + 2 * 4500


async def test_a_hole_is_kept_open_until_its_batch_comes(ledger_of: Any, store: Any, batch_of: Any) -> None:
    """A batch that comes five thousand batches late counts, and counts once."""
    books = ledger_of()
    for first in range(2, 5002, 250):
        await books.apply([batch_of("s1", seq) for seq in range(first, first + 250)])
    assert await store.messages("t1") == 5000
    for _ in range(2):
        await books.apply([batch_of("s1", 1)])
    assert await store.messages("t1") == 5001


@pytest.mark.parametrize("lost", [keys.source_key("s1"), keys.applied_key("t1", "s1")])
async def test_either_window_knows_what_lies_below_it(
    ledger_of: Any, store: Any, batch_of: Any, lost: str
) -> None:
    """With the source's or the tenant's own window gone, what was applied long ago is still known."""
    books = ledger_of()
    for first in range(1, 5001, 250):
        await books.apply([batch_of("s1", seq) for seq in range(first, first + 250)])
    assert await store.redis.delete(lost) == 1
    assert await books.apply([batch_of("s1", 1), batch_of("s1", 500)]) == [True, True]
    assert await store.messages("t1") == 5000
    await books.apply([batch_of("s1", 5001)])
    assert await store.messages("t1") == 5001


async def test_a_hole_far_behind_is_given_up_and_told(
    ledger_of: Any,
    store: Any,
    batch_of: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A batch that never comes does not let the windows grow for ever, and is told of in the log."""
    monkeypatch.setattr(commands, "WINDOW_BATCHES", 4096)
    books = ledger_of()
    for first in range(2, 10_002, 250):
        await books.apply([batch_of("s1", seq) for seq in range(first, first + 250)])
    assert await store.messages("t1") == 10_000
    assert await store.redis.strlen(keys.source_key("s1")) < 1024
    missing = [record for record in caplog.records if record.getMessage() == "usage_batches_missing"]
    assert [(record.levelname, vars(record)["batches"]) for record in missing] == [("ERROR", 1)]


async def test_a_batch_that_does_not_come_is_told_of_until_it_does(
    ledger_of: Any, batch_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one that is only late, nor where another replica has applied it; also of a source that ended."""
    now = 0.0
    books, others = ledger_of(monotonic=lambda: now), ledger_of()

    async def age() -> float:
        await books.look_for_holes()
        return float(metrics.FLOOR_LAG._value.get())

    await books.apply([batch_of(source, seq) for source in ("s1", "s2", "s3") for seq in (1, 2)])
    assert await age() == 0
    # Each round leaves the last hole behind, and makes another one.
    for seq in (4, 6, 8):
        now += 200
        await books.apply([batch_of("s1", seq)])
        await books.apply([batch_of("s1", seq - 1)])
    assert await age() == 0
    await books.apply([batch_of(source, 10) for source in ("s1", "s2")])
    now += 3601
    assert [await age(), await age()] == [3601, 3601]
    told = [vars(each)["source"] for each in caplog.records if each.getMessage() == "usage_batch_not_come"]
    assert told == ["s1", "s2"]
    await others.apply([batch_of("s2", seq) for seq in range(3, 10)])
    await books.apply([batch_of("s1", 11)])
    assert await age() == 3601
    now += 10
    await others.apply([batch_of("s1", 9)])
    assert await age() == 0
    await books.apply([batch_of("s3", 5)])
    now += 26 * 3600
    assert await age() == 0


async def test_a_sequence_that_jumps_far_ahead_allocates_no_huge_window(
    ledger_of: Any, store: Any, batch_of: Any
) -> None:
    """A source whose first known batch has a very high number is counted, with windows of bounded size."""
    books = ledger_of()
    high = 2**53 - 10
    for seq in (high, high - 1, high, high + 1):
        await books.apply([batch_of("s1", seq)])
    assert await store.messages("t1") == 3
    assert await store.redis.strlen(keys.source_key("s1")) < 200_000
    assert await store.redis.strlen(keys.applied_key("t1", "s1")) < 200_000


async def test_every_figure_lands_where_it_belongs(
    ledger_of: Any, counters: Any, store: Any, batch_of: Any
) -> None:
    """Totals, agents, channels and active sets of hour, day and month hold what the rows say."""
    at = datetime.now(UTC).replace(minute=59, second=59, microsecond=900_000) - timedelta(hours=1)
    rows = (
        UsageRow("t1", "a1", "c.1", messages=2, bytes_in=20),
        UsageRow("t1", "a1", "c.2", deliveries=3, bytes_out=30),
        UsageRow("t1", "user:x|y", "c.1", messages=1, bytes_in=5),
        UsageRow("t1", "a2", connection_seconds=1.2345),
        UsageRow("t1", api_calls=7),
    )
    await ledger_of().apply([batch_of("s1", 1, *rows, at=at.timestamp())])
    total = {
        "messages": 3,
        "deliveries": 3,
        "bytes_in": 25,
        "bytes_out": 30,
        "api_calls": 7,
        "connection_ms": 1234,
    }
    hour, day = keys.hour_key("t1", at), keys.day_key("t1", at.date())
    for key in (hour, day, keys.month_key("t1", at.date())):
        assert await store.figures(key) == total
    for key in (hour, day):
        by_agent, by_channel = [(await counters.broken_down([key], by))[0] for by in ("agent", "channel")]
        assert by_agent == {
            "a1": Figures(messages=2, bytes_in=20, deliveries=3, bytes_out=30),
            "user:x|y": Figures(messages=1, bytes_in=5),
            "a2": Figures(connection_ms=1234),
        }
        assert by_channel == {
            "c.1": Figures(messages=3, bytes_in=25),
            "c.2": Figures(deliveries=3, bytes_out=30),
        }
    for name in (
        keys.active_day_key("t1", at.date(), "agent"),
        keys.active_month_key("t1", at.date(), "agent"),
    ):
        assert await store.redis.smembers(name) == {"a1", "a2"}
    assert await store.redis.smembers(keys.active_day_key("t1", at.date(), "channel")) == {"c.1", "c.2"}


async def test_thousands_of_ids_in_one_batch_add_up_exactly(
    ledger_of: Any, counters: Any, store: Any, batch_of: Any
) -> None:
    """More agents than fit into one command are summed over batches, as whole numbers up to 2^52."""
    rows = [UsageRow("t1", f"a{n}", f"c{n % 7}", messages=n, bytes_in=2**39 + n) for n in range(5000)]
    books = ledger_of()
    for seq in range(1, 4):
        await books.apply([batch_of("s1", seq, *rows)])
    day = batch_of("s1", 1).hour.date()
    (by_agent,) = await counters.broken_down([keys.day_key("t1", day)], "agent")
    assert by_agent == {f"a{n}": Figures(messages=3 * n, bytes_in=3 * (2**39 + n)) for n in range(5000)}
    (by_channel,) = await counters.broken_down([keys.day_key("t1", day)], "channel")
    assert sum(figures.bytes_in for figures in by_channel.values()) == 3 * sum(row.bytes_in for row in rows)
    assert await counters.active([keys.active_month_key("t1", day, "agent")]) == [5000]
    assert await store.keys_without_expiry() == []


async def test_a_late_batch_lands_in_its_own_hour_day_and_month(
    ledger_of: Any, store: Any, batch_of: Any
) -> None:
    """A batch that comes days late changes the hour, day and month in which it was counted, and no other."""
    books = ledger_of()
    late = datetime.now(UTC) - timedelta(days=6, hours=5)
    await books.apply([batch_of("s1", 2), batch_of("s1", 1, at=late.timestamp())])
    for key in (keys.hour_key("t1", late), keys.day_key("t1", late.date())):
        assert (await store.figures(key))["messages"] == 1
    now = datetime.now(UTC)
    expected = 2 if now.month == late.month else 1
    assert (await store.figures(keys.month_key("t1", now.date())))["messages"] == expected


async def test_every_key_expires_and_no_later_write_puts_it_off(
    ledger_of: Any, store: Any, batch_of: Any
) -> None:
    """Every key has an expiry from its first write, which later writes leave as it is."""
    books = ledger_of()
    await books.apply([batch_of("s1", 1), batch_of("s2", 1, UsageRow("t2", api_calls=1))])
    assert await store.keys_without_expiry() == []
    names = [key async for key in store.redis.scan_iter(match="stats:*")]
    names += [key async for key in store.redis.scan_iter(match="active:*")]
    assert len(names) == 11 + 3
    before = {name: await store.redis.expiretime(name) for name in names}
    await asyncio.sleep(1.1)
    for first in range(2, 5002, 250):
        await books.apply([batch_of("s1", seq) for seq in range(first, first + 250)])
    assert {name: await store.redis.expiretime(name) for name in names} == before
    assert await store.keys_without_expiry() == []


async def test_all_keys_of_a_tenant_are_in_one_slot(ledger_of: Any, store: Any, batch_of: Any) -> None:
    """Every key of a tenant hashes to the same slot, so that its script may run on a cluster."""
    await ledger_of().apply([batch_of("s1", 1), batch_of("s2", 1)])
    slots = {
        await store.redis.execute_command("CLUSTER", "KEYSLOT", key)
        async for key in store.redis.scan_iter(match="*{t1}*")
    }
    assert len(slots) == 1


async def test_a_batch_that_cannot_be_applied_changes_nothing_and_holds_up_nobody(
    ledger_of: Any, store: Any, batch_of: Any
) -> None:
    """With one tenant's key spoilt its batch is not half counted, others are, and it counts once repaired."""
    books = ledger_of()
    good = batch_of("s1", 1, UsageRow("good", messages=1))
    bad = batch_of("s1", 2, UsageRow("bad", "a1", messages=1))
    spoilt = keys.active_month_key("bad", bad.hour.date(), "agent")
    await store.redis.set(spoilt, "no set")
    assert await books.apply([good, bad]) == [True, False]
    assert (await store.messages("good"), await store.messages("bad")) == (1, 0)
    await store.redis.delete(spoilt)
    assert await books.apply([good, bad]) == [True, True]
    assert (await store.messages("good"), await store.messages("bad")) == (1, 1)


async def test_of_a_batch_that_one_tenant_refuses_the_others_parts_are_noted(
    ledger_of: Any, store: Any, batch_of: Any
) -> None:
    """They are counted, and it may never come again whole: rollup and recount have to know of it."""
    batch = batch_of("s1", 1, UsageRow("good", messages=1), UsageRow("bad", messages=1))
    day = batch.hour.date()
    await store.redis.set(keys.month_key("bad", day), "no hash")
    assert await ledger_of().apply([batch]) == [False]
    assert await store.messages("good") == 1
    notes = [keys.unrolled_key("hour", batch.hour), keys.unrolled_key("day", periods.midnight(day))]
    for noted in notes:
        assert set(await store.redis.hgetall(noted)) == {"good"}
    assert await store.redis.get(keys.changed_key(day))


@pytest.mark.parametrize("spoilt", ["many", "1.5", "", "9" * 30, "9007199254740992"])
@pytest.mark.parametrize("period", ["hour", "day", "month"])
async def test_a_figure_that_is_no_number_loses_no_batch(
    ledger_of: Any, store: Any, batch_of: Any, period: str, spoilt: str
) -> None:
    """Where one field cannot grow nothing is written and nothing remembered: repaired, the batch counts."""
    books = ledger_of()
    batch = batch_of("s1", 1, UsageRow("bad", "a1", "c1", messages=1, bytes_in=7))
    day = batch.hour.date()
    key = {
        "hour": keys.hour_key("bad", batch.hour),
        "day": keys.day_key("bad", day),
        "month": keys.month_key("bad", day),
    }[period]
    await store.redis.hset(key, "bytes_in", spoilt)
    assert await books.apply([batch]) == [False]
    assert await books.apply([batch]) == [False]
    assert [name async for name in store.redis.scan_iter(match="*{bad}*")] == [key]
    await store.redis.delete(key)
    assert await books.apply([batch]) == [True]
    assert await store.messages("bad") == 1
    for name in (keys.hour_key("bad", batch.hour), keys.day_key("bad", day), keys.month_key("bad", day)):
        assert await store.redis.hgetall(name) == {"messages": "1", "bytes_in": "7"}


class Interrupted(Ledger):
    """A ledger in which something happens between the application of a round and its confirmation."""

    async def between(self) -> None:
        """Be the thing that happens."""

    async def _confirm(
        self, session: WriteSession, mode: durability.Mode, batches: Sequence[Batch], refused: Any
    ) -> None:
        await self.between()
        await super()._confirm(session, mode, batches, refused)


async def test_valkey_killed_between_application_and_confirmation_counts_once(
    ledger_of: Any, store: Any, batch_of: Any
) -> None:
    """The round fails, and sent again it counts nothing twice, since Valkey had it on disk."""
    books = ledger_of(Interrupted, wait_for_disk=True)
    await books.apply([batch_of("s1", 1)])

    async def kill() -> None:
        store.server.kill()

    books.between = kill
    with pytest.raises(ServiceError) as caught:
        await books.apply([batch_of("s1", 2), batch_of("s1", 3)])
    assert caught.value.code is ErrorCode.UNAVAILABLE
    store.server.start()
    assert await ledger_of().apply([batch_of("s1", 3), batch_of("s1", 2)]) == [True, True]
    assert await store.messages("t1") == 3


async def test_what_a_crash_took_from_the_disk_is_not_confirmed(
    ledger_of: Any, store: Any, batch_of: Any
) -> None:
    """Valkey comes back in the middle of a round without its writes: it fails, and counts when repeated."""
    books = ledger_of(Interrupted, wait_for_disk=True)
    await books.apply([batch_of("s1", 1)])
    kept = store.keep_log()

    async def lose_power() -> None:
        store.lose_power(kept)
        # Another replica is quick to load the scripts again: only the lost connection tells what happened.
        await ledger_of().ready()

    books.between = lose_power
    with pytest.raises(ServiceError):
        await books.apply([batch_of("s1", 2), batch_of("s1", 3)])
    assert await store.messages("t1") == 1
    assert await ledger_of().apply([batch_of("s1", 2), batch_of("s1", 3)]) == [True, True]
    assert await store.messages("t1") == 3


async def test_scripts_are_loaded_again_after_a_restart(ledger_of: Any, store: Any, batch_of: Any) -> None:
    """A server that was restarted, or told to forget its scripts, is given them again."""
    books = ledger_of()
    await books.apply([batch_of("s1", 1)])
    await store.redis.script_flush()
    await books.apply([batch_of("s1", 2)])
    store.server.stop()
    store.server.start()
    await books.apply([batch_of("s1", 3)])
    assert await store.messages("t1") == 3


async def test_a_round_is_confirmed_only_after_an_fsync(
    ledger_of: Any, store: Any, batch_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `everysec` no round ends before a second has passed in which Valkey must have synced its file."""
    assert (await store.redis.config_get("appendfsync"))["appendfsync"] == "everysec"
    books = ledger_of(wait_for_disk=True)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await books.apply([batch_of("s1", 1)])
    assert loop.time() - started > 1.0
    await store.redis.config_set("appendfsync", "always")
    # Whoever waits for it gives up first, and fails.
    monkeypatch.setattr(durability, "LOOK_AGAIN_SECONDS", 2 * durability.GIVE_UP_SECONDS)
    assert await books.apply([batch_of("s1", 2)]) == [True]


async def test_valkey_without_append_only_file_is_refused(ledger_of: Any, store: Any, batch_of: Any) -> None:
    """Where nothing would survive a crash, nothing is confirmed, unless the operator has said so."""
    await store.redis.config_set("appendonly", "no")
    books = ledger_of(wait_for_disk=True)
    for attempt in (books.ready(), books.apply([batch_of("s1", 1)])):
        with pytest.raises(ServiceError) as caught:
            await attempt
        assert caught.value.code is ErrorCode.UNAVAILABLE
    assert await ledger_of(wait_for_disk=False).apply([batch_of("s1", 1)]) == [True]
    assert await store.messages("t1") == 1


async def test_valkey_that_is_full_is_unavailable_and_counts_when_it_has_room(
    ledger_of: Any, store: Any, batch_of: Any
) -> None:
    """Out of memory, a round fails as a whole and counts once there is memory again."""
    books = ledger_of()
    await store.redis.config_set("maxmemory", "1mb")
    with pytest.raises(ServiceError) as caught:
        await books.apply([batch_of("s1", 1), batch_of("s1", 2)])
    assert caught.value.code is ErrorCode.UNAVAILABLE
    await store.redis.config_set("maxmemory", "0")
    assert await books.apply([batch_of("s1", 1), batch_of("s1", 2)]) == [True, True]
    assert await store.messages("t1") == 2
