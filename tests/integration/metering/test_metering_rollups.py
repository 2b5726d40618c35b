"""Closing periods on real Valkey and the AWS emulator, and reading across both, with a frozen clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from artcafe_common.contracts.metering import UsageRow
from artcafe_common.contracts.registry import Limits, TenantInfo
from artcafe_common.dynamo import Dynamo
from artcafe_common.errors import ServiceError
from artcafe_devstack.servers import AwsEndpoint, RunningServer
from artcafe_metering import counters, keys, layers
from artcafe_metering.counters import ValkeyCounters
from artcafe_metering.exporting import Rows, Summary
from artcafe_metering.figures import Figures, total
from artcafe_metering.generation import nothing_lost
from artcafe_metering.groups import Part
from artcafe_metering.keeping import KeptByPlan
from artcafe_metering.layers import LayeredCounters
from artcafe_metering.periods import Retention, midnight
from artcafe_metering.rolled import USAGE_METRICS, Rolled
from artcafe_metering.roller import Roller
from artcafe_metering.valkey import Valkey

DAY = timedelta(days=1)


@dataclass
class Frozen:
    """A clock that shows what it is told."""

    moment: datetime

    def now(self) -> float:
        """Return the moment."""
        return self.moment.timestamp()

    def monotonic(self) -> float:
        """Return the moment."""
        return self.now()


class OneTenant:
    """Registry with one tenant, whose plan a test changes."""

    plan = "pro"

    async def find(self, tenant_id: str) -> TenantInfo | None:
        """Return the tenant."""
        return TenantInfo(
            tenant_id=tenant_id,
            name="",
            status="active",
            plan=OneTenant.plan,
            limits=Limits(),
            auto_create_channels=False,
        )


@dataclass
class Bench:
    """A rollup, what it reads and writes, and a way to count."""

    valkey: Valkey
    rolled: Rolled
    clock: Frozen
    ledger: Any
    batch_of: Callable[..., Any]
    kept: KeptByPlan
    day: date = field(default_factory=lambda: datetime.now(UTC).date() - 3 * DAY)
    seq: int = 0

    def __post_init__(self) -> None:
        self.counters = ValkeyCounters(self.valkey)
        self.layered = LayeredCounters(self.counters, self.rolled, self.clock)

    def roller(self, since: Callable[[], Awaitable[float]] = nothing_lost) -> Roller:
        """Return the rollup of one replica."""

        async def none() -> int:
            return 0

        return Roller(
            self.valkey, self.counters, self.rolled, self.clock, Retention(), none, self.kept, since
        )

    async def count(self, *rows: UsageRow, day: date | None = None, source: str = "s1") -> None:
        """Count a batch in the sixth hour of a day."""
        self.seq += 1
        at = (midnight(day or self.day) + timedelta(hours=5)).timestamp()
        assert await self.ledger.apply([self.batch_of(source, self.seq, *rows, at=at)]) == [True]

    async def days(self, tenant_id: str = "t1") -> list[tuple[int, Figures]]:
        """Return the entries of the day."""
        found = await self.rolled.entries(tenant_id, "day", f"{self.day}", f"{self.day}")
        return [(entry.number, entry.figures) for entry in found]


@pytest.fixture
async def bench(
    valkey: RunningServer, aws_environment: AwsEndpoint, ledger_of: Any, batch_of: Any
) -> AsyncIterator[Bench]:
    """Make a bench whose clock stands a day and a half after the day that is counted for."""
    url, region = aws_environment.url, aws_environment.region
    async with Dynamo.connect(region=region, endpoint_url=url, prefix="artcafe-") as dynamo:
        await dynamo.create_tables([USAGE_METRICS])
        client = Valkey(valkey.url, 4)
        hours, days = {"long": 90, "short": 9}, {"long": 1100, "short": 60}
        kept = KeptByPlan(dynamo, OneTenant(), Retention(), hours, days)
        made = Bench(client, Rolled(dynamo), Frozen(datetime.now(UTC)), ledger_of(), batch_of, kept)
        made.clock.moment = midnight(made.day) + 1.5 * DAY
        yield made
        await client.close()


def row(messages: int, agent: str = "a1", channel: str = "c1") -> UsageRow:
    """Return a row with messages."""
    return UsageRow("t1", agent, channel, messages=messages)


async def test_a_period_is_closed_when_its_grace_has_passed(bench: Bench) -> None:
    """Two hours after its end an hour is written, and not a second earlier; then the day."""
    await bench.count(row(5))
    name = f"{bench.day}T05"
    bench.clock.moment = midnight(bench.day) + timedelta(hours=8, seconds=-1)
    await bench.roller().roll()
    assert await bench.rolled.entries("t1", "hour", name, name) == []
    bench.clock.moment += timedelta(seconds=1)
    await bench.roller().roll()
    (entry,) = await bench.rolled.entries("t1", "hour", name, name)
    assert (entry.number, entry.figures) == (0, Figures(messages=5))
    assert await bench.days() == []
    bench.clock.moment = midnight(bench.day + DAY) + timedelta(hours=2)
    await bench.roller().roll()
    assert await bench.days() == [(0, Figures(messages=5))]


async def test_how_late_it_is_goes_by_the_clock(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 0 where all is rolled up, and grows while nothing is, for whatever reason."""
    backlog = 0

    async def waiting() -> int:
        return backlog

    keeping = bench.kept
    roller = Roller(bench.valkey, bench.counters, bench.rolled, bench.clock, Retention(), waiting, keeping)
    monkeypatch.setattr("artcafe_metering.roller.PASS_SECONDS", 0.01)
    hour_closed = midnight(bench.day) + timedelta(hours=8)
    bench.clock.moment = hour_closed - timedelta(minutes=1)
    await bench.count(row(5))
    await roller.roll()
    assert roller.lag() == 0
    bench.clock.moment += timedelta(seconds=50)
    assert roller.lag() == 50
    bench.clock.moment = hour_closed + timedelta(hours=5)
    backlog = 20_000

    async def away(*_: Any) -> bool:
        raise OSError("no store")

    async def lag_is(expected: float) -> None:
        async with asyncio.timeout(30):
            while roller.lag() != expected:
                await asyncio.sleep(0.02)

    running = asyncio.create_task(roller.run())
    # Batches are to come, so it only looks; then it tries, and fails.
    await lag_is(5 * 3600)
    assert await bench.rolled.entries("t1", "hour", f"{bench.day}T05", f"{bench.day}T05") == []
    add = bench.rolled.add
    monkeypatch.setattr(bench.rolled, "add", away)
    backlog = 0
    bench.clock.moment += timedelta(hours=1)
    await lag_is(6 * 3600)
    monkeypatch.setattr(bench.rolled, "add", add)
    await lag_is(0)
    running.cancel()


async def test_what_comes_late_is_an_adjustment_with_its_breakdown(bench: Bench) -> None:
    """A closed entry is never changed: late batches become further entries, which add up with it."""
    await bench.count(row(5), UsageRow("t1", "user:ann", "c1", messages=1))
    await bench.roller().roll()
    await bench.count(row(2), row(3, "a2", "c2"))
    await bench.roller().roll()
    await bench.roller().roll()
    assert await bench.days() == [(0, Figures(messages=6)), (1, Figures(messages=5))]
    entries = await bench.rolled.entries("t1", "day", f"{bench.day}", f"{bench.day}")
    assert [(entry.active_agents, entry.active_channels) for entry in entries] == [(1, 1), (2, 2)]
    found = [(e.number, part) async for e, part in bench.rolled.breakdown("t1", "day", "agent", entries)]
    assert found == [
        (0, {"a1": Figures(messages=5), "user:ann": Figures(messages=1)}),
        (1, {"a1": Figures(messages=2), "a2": Figures(messages=3)}),
    ]


async def test_many_replicas_at_once_write_each_entry_once(bench: Bench) -> None:
    """Replicas that close the same periods under a stream of late batches add up to what was counted."""
    await bench.count(row(1))
    rollers = [bench.roller() for _ in range(4)]

    async def roll(roller: Roller) -> None:
        for _ in range(4):
            await roller.roll()

    async def late() -> None:
        for number in range(20):
            await bench.count(row(1, f"a{number % 3}"))

    await asyncio.gather(late(), *(roll(each) for each in rollers))
    await rollers[0].roll()
    entries = await bench.days()
    assert [number for number, _ in entries] == list(range(len(entries)))
    assert total(figures for _, figures in entries) == Figures(messages=21)
    known = await bench.rolled.entries("t1", "day", f"{bench.day}", f"{bench.day}")
    parts = [part async for _, part in bench.rolled.breakdown("t1", "day", "agent", known)]
    assert sum(figures.messages for part in parts for figures in part.values()) == 21


async def test_an_entry_is_written_once_and_never_changed(bench: Bench) -> None:
    """Whoever comes second with the same number changes nothing, and leaves no breakdown behind."""
    name = f"{bench.day}"
    for count, wanted in ((1, True), (2, False)):
        groups: dict[keys.Breakdown, list[Part]] = {"agent": [{"a": Figures(count)}], "channel": []}
        arguments = (name, 0, Figures(count), groups, {"agent": 1, "channel": 0}, 1.5, 2**33)
        assert await bench.rolled.add("t1", "day", *arguments) is wanted  # type: ignore[arg-type]
    entries = await bench.rolled.entries("t1", "day", name, name)
    assert [(entry.figures, entry.recorded_at) for entry in entries] == [(Figures(1), 1.5)]
    parts = [part async for _, part in bench.rolled.breakdown("t1", "day", "agent", entries)]
    assert parts == [{"a": Figures(1)}]


async def test_a_batch_that_comes_while_a_period_is_closed_is_looked_at_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is counted after the counters were read and before the note is taken away is not forgotten."""
    await bench.count(row(1))
    roller = bench.roller()
    add = bench.rolled.add

    async def add_and_count(*arguments: Any) -> bool:
        done = await add(*arguments)
        if arguments[1] == "day":
            await bench.count(row(7))
        return done

    monkeypatch.setattr(bench.rolled, "add", add_and_count)
    await roller.roll()
    monkeypatch.undo()
    await roller.roll()
    assert await bench.days() == [(0, Figures(messages=1)), (1, Figures(messages=7))]


async def test_counters_below_what_was_closed_change_nothing(bench: Bench, store: Any) -> None:
    """After a restore the counters may be behind: that is no adjustment, and it is looked at again."""
    await bench.count(row(5))
    await bench.roller().roll()
    await store.redis.delete(keys.day_key("t1", bench.day))
    await bench.count(row(1))
    await bench.roller().roll()
    assert await bench.days() == [(0, Figures(messages=5))]
    assert await store.redis.exists(keys.unrolled_key("day", midnight(bench.day)))


async def test_what_was_closed_holds_where_its_counters_are_known_to_be_lost(
    bench: Bench, store: Any
) -> None:
    """It is looked at once and told of; the rollup is not late for it, and no adjustment is made of it."""
    await bench.count(row(5))
    await bench.roller().roll()
    await store.redis.flushall()
    await bench.count(row(1))

    async def since() -> float:
        return bench.clock.now()

    roller = bench.roller(since)
    await roller.roll()
    assert await bench.days() == [(0, Figures(messages=5))]
    assert not await store.redis.exists(keys.unrolled_key("day", midnight(bench.day)))
    assert roller.lag() == 0


@pytest.mark.parametrize("by", [None, "agent", "channel"])
async def test_an_export_shows_adjustments_as_rows_of_their_own(
    bench: Bench, by: keys.Breakdown | None
) -> None:
    """However it is divided, an export adds up to what was counted, and says what came after the closing."""
    await bench.count(row(5), UsageRow("t1", api_calls=2))
    await bench.roller().roll()
    await bench.count(row(2, "a2"))
    await bench.roller().roll()
    await bench.count(row(1), day=bench.day + DAY)
    rows = Rows(bench.counters, bench.rolled).of("t1", bench.day - DAY, bench.day + DAY, by)
    found = [each async for each in rows]
    sums: dict[tuple[str, str], int] = {}
    for each in found:
        place = (each["date"], each["record"])
        sums[place] = sums.get(place, 0) + each["messages"]
    day, next_day = f"{bench.day}", f"{bench.day + DAY}"
    assert sums == {(day, "closed"): 5, (day, "adjustment"): 2, (next_day, "open"): 1}
    assert sum(each["api_calls"] for each in found) == 2


async def test_an_export_of_a_large_tenant_is_read_in_parts(bench: Bench) -> None:
    """Thousands of agents on several days are more than one answer of DynamoDB, and each is there once."""
    agents, days = 9_000, [bench.day - number * DAY for number in (2, 1, 0)]
    for day in days:
        for first in range(0, agents, 3_000):
            some = range(first, first + 3_000)
            await bench.count(*(row(n + 1, f"an-agent-with-a-long-name-{n:05d}") for n in some), day=day)
    await bench.roller().roll()
    summary = Summary()
    rows = Rows(bench.counters, bench.rolled).of("t1", days[0], days[-1], "agent")
    named = [(each["date"], each["agent_id"]) async for each in summary.of_rows(rows)]
    assert named == sorted(set(named))
    assert (summary.rows, summary.totals["messages"]) == (3 * agents, 3 * agents * (agents + 1) // 2)


async def test_an_open_day_of_a_large_tenant_is_read_in_steps(bench: Bench) -> None:
    """Others get their turn all the while; each agent is there once, in order, and the rest is nobody's."""
    agents = 30_000
    names = [f"agent-{n:05d}" for n in range(agents)]
    for first in range(0, agents, 3_000):
        await bench.count(*(row(2, name) for name in names[first : first + 3_000]))
    await bench.count(UsageRow("t1", api_calls=3))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(others())
    rows = Rows(bench.counters, bench.rolled).of("t1", bench.day, bench.day, "agent")
    first_row = await anext(rows)
    in_reading, turns = turns, 0
    found = [first_row, *[each async for each in rows]]
    ticking.cancel()
    # While it was read as well as while the rows were made: some hundreds of ids at most in one go.
    assert in_reading >= agents / 2_000
    assert turns >= agents / 600
    assert [each["agent_id"] for each in found] == [*names, ""]
    assert {each["messages"] for each in found[:-1]} == {2}
    assert (found[-1]["messages"], found[-1]["api_calls"]) == (0, 3)


async def test_an_open_day_that_is_counted_for_meanwhile_adds_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large day is read in steps: what is counted in between is in the file, no figure is below zero."""
    await bench.count(*(row(1, f"a{n:04d}") for n in range(4_000)))
    chunks = bench.counters.chunks

    async def slowly(key: str, by: keys.Breakdown) -> AsyncIterator[dict[bytes, bytes]]:
        async for chunk in chunks(key, by):
            yield chunk
            await bench.count(*(row(1, f"a{n:04d}") for n in range(4_000)), row(1, "new"))

    monkeypatch.setattr(bench.counters, "chunks", slowly)
    assert not (await bench.counters.snapshot(keys.day_key("t1", bench.day), ["agent"])).exact
    found = [
        each async for each in Rows(bench.counters, bench.rolled).of("t1", bench.day, bench.day, "agent")
    ]
    (figures,) = await bench.counters.figures([keys.day_key("t1", bench.day)])
    assert sum(each["messages"] for each in found) == figures.messages
    assert min(each["messages"] for each in found) >= 0
    # A period that does not stand still is not closed: some agents would be of another moment than others.
    await bench.roller().roll()
    assert await bench.days() == []
    monkeypatch.undo()
    await bench.roller().roll()
    assert await bench.days() == [(0, (await bench.counters.figures([keys.day_key("t1", bench.day)]))[0])]


@pytest.mark.parametrize("agents", [3, 3_000])
async def test_no_row_of_an_open_day_is_below_zero(bench: Bench, store: Any, agents: int) -> None:
    """Where counters were lost in part, so that the agents come to more, nobody is said to have used less."""
    await bench.count(*(row(5, f"a{n}") for n in range(agents)))
    await store.redis.hset(keys.day_key("t1", bench.day), "messages", 1)
    found = [
        each async for each in Rows(bench.counters, bench.rolled).of("t1", bench.day, bench.day, "agent")
    ]
    assert [each["messages"] for each in found] == [5] * agents


async def test_ids_that_were_lost_while_they_were_read_are_not_passed_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart of Valkey a scan may pass ids over: an error and not a file without them."""
    await bench.count(*(row(1, f"a{n}") for n in range(3_000)))

    async def half(key: str, by: keys.Breakdown) -> AsyncIterator[dict[bytes, bytes]]:
        async for chunk in ValkeyCounters(bench.valkey).chunks(key, by):
            yield chunk
            return

    monkeypatch.setattr(bench.counters, "chunks", half)
    with pytest.raises(ServiceError, match="unavailable"):
        await anext(Rows(bench.counters, bench.rolled).of("t1", bench.day, bench.day, "agent"))


async def test_what_comes_late_to_a_large_day_is_the_difference(bench: Bench) -> None:
    """Thousands of agents are closed and adjusted in parts: the entries by agent add up to the counters."""
    await bench.count(*(row(1, f"a{n:04d}") for n in range(6_000)))
    await bench.roller().roll()
    await bench.count(*(row(2, f"a{n:04d}") for n in range(5_500, 6_500)))
    await bench.roller().roll()
    entries = await bench.rolled.entries("t1", "day", f"{bench.day}", f"{bench.day}")
    assert [entry.figures.messages for entry in entries] == [6_000, 2_000]
    assert [entry.active_agents for entry in entries] == [6_000, 6_500]
    adjusted = [part async for _, part in bench.rolled.breakdown("t1", "day", "agent", entries[1:])]
    names = [name for part in adjusted for name in part]
    assert names == [f"a{n:04d}" for n in range(5_500, 6_500)]
    assert {figures.messages for part in adjusted for figures in part.values()} == {2}


async def test_pages_of_agents_cover_both_places(bench: Bench, store: Any) -> None:
    """Days in Valkey and days that are only in DynamoDB: each agent is in one page, with all that it used."""
    old, late = bench.day - 5 * DAY, bench.day
    await bench.count(*(row(1, f"a{n:04d}") for n in range(2_500)), day=old)
    await bench.roller().roll()
    await bench.count(*(row(10, f"a{n:04d}") for n in range(2_000, 3_500)), day=late)
    for name in await store.redis.keys(f"*:d:{old:%Y%m%d}:*"):
        await store.redis.delete(name)
    bench.clock.moment += 70 * DAY
    names = [keys.day_key("t1", day) for day in (old, late)]
    ids: list[str] = []
    sums = [0, 0]
    after, more = None, True
    while more:
        page = await bench.layered.page(names, "agent", after, 1_000)
        ids += page.ids
        sums = [a + total(group.values()).messages for a, group in zip(sums, page.groups, strict=True)]
        after, more = page.ids[-1], page.more
    assert ids == [f"a{n:04d}" for n in range(3_500)]
    assert sums == [2_500, 15_000]


@pytest.mark.parametrize("gone", [False, True])
async def test_too_many_groups_for_one_answer_say_what_to_do(
    bench: Bench, store: Any, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """The refusal names the pages and the file, which a single day of a large tenant needs."""
    await bench.count(*(row(1, f"a{n}") for n in range(20)))
    name = keys.day_key("t1", bench.day)
    if gone:
        await bench.roller().roll()
        bench.clock.moment += 70 * DAY
        for each in await store.redis.keys(f"*:d:{bench.day:%Y%m%d}:*"):
            await store.redis.delete(each)
    assert len((await bench.layered.broken_down([name], "agent"))[0]) == 20
    for module in (counters, layers):
        monkeypatch.setattr(module, "BROKEN_DOWN_MAX", 19)
    with pytest.raises(ServiceError, match=r"limit and next_token.*/usage/export\?group_by=agent"):
        await bench.layered.broken_down([name], "agent")
    assert len((await bench.layered.page([name], "agent", None, 5)).ids) == 5
    assert await bench.layered.active_in_all([keys.active_day_key("t1", bench.day, "agent")]) == 20
    for module in (counters, layers):
        monkeypatch.setattr(module, "PAGED_MAX", 19)
    with pytest.raises(ServiceError, match="/usage/export"):
        await bench.layered.page([name], "agent", None, 5)


async def test_closed_periods_expire_as_the_plan_says(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    """Each by the plan at its closing, in DynamoDB, and in Valkey where that is sooner than for everybody."""
    expiries: dict[str, int] = {}
    add = bench.rolled.add

    async def noted(*arguments: Any) -> bool:
        _, _, period, *_, expires_at = arguments
        expiries[period] = expires_at
        return await add(*arguments)

    monkeypatch.setattr(bench.rolled, "add", noted)
    # Earlier, so that the last of these days is over, too.
    bench.day -= 2 * DAY
    bench.clock.moment -= 2 * DAY
    for plan, hours, days in (("pro", 30, 400), ("long", 90, 1100), ("short", 9, 60), ("pro", 30, 400)):
        monkeypatch.setattr(OneTenant, "plan", plan)
        await bench.count(row(1))
        await bench.roller().roll()
        hour, day = midnight(bench.day) + timedelta(hours=6), midnight(bench.day) + DAY
        assert expiries[f"{bench.day}T05"] == (hour + hours * DAY).timestamp()
        assert expiries[f"{bench.day}"] == (day + days * DAY).timestamp()
        for kind, end, kept in (("h", hour, min(hours, 30)), ("d", day, min(days, 90))):
            names = await store.redis.keys(f"*:{kind}:{bench.day:%Y%m%d}:*")
            moments = {await store.redis.expiretime(name) for name in names}
            assert (len(names), moments) == (
                3 if kind == "h" else 5,
                {int((end + kept * DAY).timestamp())},
            )
        bench.day += DAY
        bench.clock.moment += DAY


async def test_what_comes_late_expires_with_the_plan_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    """A day whose first channel is heard of after the closing has no key that outlives the others."""
    monkeypatch.setattr(OneTenant, "plan", "short")
    await bench.count(UsageRow("t1", "a1", "", deliveries=1))
    await bench.roller().roll()
    await bench.count(row(1))
    await bench.roller().roll()
    names = await store.redis.keys(f"*:d:{bench.day:%Y%m%d}:*")
    assert len(names) == 5
    expiry = int((midnight(bench.day) + 61 * DAY).timestamp())
    assert {await store.redis.expiretime(name) for name in names} == {expiry}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("day", [60, 60, 60, 61, 100, 400, 400]), ("hour", [9, 9, 10, 30, 30, 30, 30])],
)
async def test_after_a_change_of_plan_what_is_gone_is_not_read_as_zeros(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: keys.Kind, expected: list[int]
) -> None:
    """The short plan's periods are gone first; those that the last plan has kept remain."""
    # Earlier, so that the last of these days is over, too.
    bench.day -= 2 * DAY
    bench.clock.moment -= 2 * DAY
    for plan in ("pro", "long", "short", "pro"):
        monkeypatch.setattr(OneTenant, "plan", plan)
        await bench.count(row(1))
        await bench.roller().roll()
        bench.day += DAY
        bench.clock.moment += DAY
    today = bench.clock.moment.date() - DAY

    async def days_back(later: int) -> int:
        when = today + later * DAY
        found = await bench.kept.retention("t1", kind, when - 2000 * DAY, when)
        return found.readable_hours if kind == "hour" else found.readable_days

    steps = (0, 59, 60, 61, 100, 400, 500) if kind == "day" else (0, 9, 10, 30, 31, 100, 400)
    assert [await days_back(later) for later in steps] == expected
    # The recent past is in Valkey whatever the plan: it is answered without DynamoDB.
    recent = today - (8 if kind == "hour" else 40) * DAY
    assert await bench.kept.retention("t1", kind, recent, today) == Retention()


async def test_at_the_boundary_every_day_is_read_from_one_place(bench: Bench, store: Any) -> None:
    """Days read from Valkey while it has them and from DynamoDB afterwards: no gap, none twice."""
    days = [bench.day - number * DAY for number in range(6)]
    for number, day in enumerate(days):
        rows = [row(10 + number, f"a{number}", "c1"), UsageRow("t1", api_calls=1)]
        await bench.count(*rows, UsageRow("t1", "user:ann", "c1", messages=1), day=day)
    await bench.roller().roll()
    await bench.count(row(100, "late"), day=days[5])
    await bench.roller().roll()

    async def answers() -> list[Any]:
        names = [keys.day_key("t1", day) for day in days]
        sets = [keys.active_day_key("t1", day, "agent") for day in days]
        layered = bench.layered
        return [
            await layered.figures(names),
            await layered.broken_down(names, "agent"),
            await layered.broken_down(names, "channel"),
            await layered.active(sets),
            await layered.active_in_all(sets),
        ]

    before = await answers()
    assert before[0][5] == Figures(messages=116, api_calls=1)
    assert before[4] == 7
    # Only now is the range old enough to be looked for below.
    bench.clock.moment = midnight(bench.day) + 90 * DAY
    for gone in reversed(days):
        for key in await store.redis.keys(f"*:d:{gone:%Y%m%d}:*"):
            await store.redis.delete(key)
        assert await answers() == before


async def test_after_a_loss_each_period_is_read_from_where_there_is_more_of_it(
    bench: Bench, store: Any
) -> None:
    """Hours, days, months and their ids are what they were, with nothing, some or all of it counted again."""
    # Four days of one month.
    last = datetime.now(UTC).date() - DAY
    if last.day < 4:
        last = last.replace(day=1) - DAY
    days = [last - number * DAY for number in (3, 2, 1, 0)]
    bench.day = days[0]
    batches = [
        ([row(10 + number, f"a{number}", f"c{number}"), UsageRow("t2", messages=number)], day)
        for number, day in enumerate(days)
    ]
    for rows, day in batches:
        await bench.count(*rows, UsageRow("t1", "user:ann", "c1", messages=1), day=day)
    bench.clock.moment = midnight(days[3]) + timedelta(hours=9)
    await bench.roller().roll()
    lost_at = bench.clock.now()

    async def since() -> float:
        return lost_at

    layered = LayeredCounters(bench.counters, bench.rolled, bench.clock, since)

    async def answers(counters: LayeredCounters) -> list[Any]:
        names = [keys.day_key("t1", day) for day in days[:3]]
        hours = [keys.hour_key("t1", midnight(day) + timedelta(hours=5)) for day in days]
        months = [keys.month_key(tenant_id, bench.day) for tenant_id in ("t1", "t2")]
        sets = [keys.active_day_key("t1", day, "agent") for day in days[:3]]
        of_month = [keys.active_month_key("t1", bench.day, by) for by in keys.BREAKDOWNS]
        return [
            await counters.figures(names),
            await counters.figures(hours),
            await counters.figures(months),
            await counters.broken_down(names, "agent"),
            await counters.page(names, "agent", None, 2),
            await counters.active(sets),
            await counters.active(of_month),
            await counters.active_in_all(sets),
            await counters.active_in_all(of_month[:1]),
        ]

    before = await answers(bench.layered)
    assert before[2] == [Figures(messages=50), Figures(messages=6)]
    assert before[6] == [4, 4]
    assert await answers(layered) == before
    await store.redis.flushall()
    bench.seq = 3
    # Today is not closed: the stream has it, as it has some of the rest.
    await bench.count(*batches[3][0], UsageRow("t1", "user:ann", "c1", messages=1), day=days[3])
    assert await answers(layered) == before
    await bench.count(row(3, "a2", "c2"), day=days[2])
    assert await answers(layered) == before
    # Nothing closed has more than this now.
    await store.redis.delete(keys.day_key("t1", days[2]))
    bench.seq = 0
    for rows, day in batches[:3]:
        await bench.count(*rows, UsageRow("t1", "user:ann", "c1", messages=1), day=day, source="again")
    counted_again = await bench.counters.figures([keys.day_key("t1", day) for day in days[:3]])
    assert counted_again == before[0][:3]
    assert (await answers(layered))[0] == before[0]
    # Much later the days' counters are gone, and the month's is not: no day of it is counted twice.
    for key in await store.redis.keys("*:d:*"):
        await store.redis.delete(key)
    bench.clock.moment = midnight(bench.day) + 80 * DAY
    assert await layered.figures([keys.month_key("t2", bench.day)]) == [Figures(messages=6)]


async def test_the_recent_past_needs_no_dynamodb(bench: Bench) -> None:
    """With DynamoDB away recent days without usage are zeros; what may have expired is refused, not zero."""
    old, recent = bench.day - 60 * DAY, bench.day - 5 * DAY
    async with Dynamo.connect(region="us-east-1", endpoint_url="http://127.0.0.1:9", prefix="x-") as dynamo:
        layered = LayeredCounters(bench.counters, Rolled(dynamo), bench.clock)
        assert await layered.figures([keys.day_key("t1", recent)]) == [Figures()]
        with pytest.raises(ServiceError):
            await layered.figures([keys.day_key("t1", old)])


async def test_what_comes_late_to_a_day_without_usage_is_an_adjustment(bench: Bench) -> None:
    """Nothing was there when it was closed: an invoice that was made since then is not to miss it."""
    await bench.roller().roll()
    await bench.count(row(5))
    await bench.roller().roll()
    assert await bench.days() == [(0, Figures()), (1, Figures(messages=5))]
