"""Closing periods on real Valkey and the AWS emulator, and reading across both, with a frozen clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from artcafe_common.contracts.metering import UsageRow
from artcafe_common.dynamo import Dynamo
from artcafe_common.errors import ServiceError
from artcafe_devstack.servers import AwsEndpoint, RunningServer
from artcafe_metering import keys
from artcafe_metering.counters import ValkeyCounters
from artcafe_metering.exporting import Rows
from artcafe_metering.figures import Figures, total
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


@dataclass
class Bench:
    """A rollup, what it reads and writes, and a way to count."""

    valkey: Valkey
    rolled: Rolled
    clock: Frozen
    ledger: Any
    batch_of: Callable[..., Any]
    day: date = field(default_factory=lambda: datetime.now(UTC).date() - 3 * DAY)
    seq: int = 0

    def __post_init__(self) -> None:
        self.counters = ValkeyCounters(self.valkey)
        self.layered = LayeredCounters(self.counters, self.rolled, self.clock)

    def roller(self) -> Roller:
        """Return the rollup of one replica."""

        async def none() -> int:
            return 0

        return Roller(self.valkey, self.counters, self.rolled, self.clock, Retention(), none)

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
        made = Bench(client, Rolled(dynamo), Frozen(datetime.now(UTC)), ledger_of(), batch_of)
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
        groups: dict[keys.Breakdown, dict[str, Figures]] = {"agent": {"a": Figures(count)}, "channel": {}}
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


async def test_the_recent_past_needs_no_dynamodb(bench: Bench) -> None:
    """With DynamoDB away recent days without usage are zeros; what may have expired is refused, not zero."""
    old, recent = bench.day - 60 * DAY, bench.day - 5 * DAY
    async with Dynamo.connect(region="us-east-1", endpoint_url="http://127.0.0.1:9", prefix="x-") as dynamo:
        layered = LayeredCounters(bench.counters, Rolled(dynamo), bench.clock)
        assert await layered.figures([keys.day_key("t1", recent)]) == [Figures()]
        with pytest.raises(ServiceError):
            await layered.figures([keys.day_key("t1", old)])
