"""The REST handlers on counters held in memory, with a clock that stands still."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from artcafe_common.contracts.metering import GetMonths
from artcafe_common.contracts.registry import Limits, TenantInfo
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.http import CursorBox
from artcafe_metering.counters import GroupPage
from artcafe_metering.figures import Figures
from artcafe_metering.handlers import UsageApi
from artcafe_metering.keys import Breakdown, Kind
from artcafe_metering.periods import Retention
from artcafe_metering.wire import HistoryQuery, MetricsQuery, TenantQuery

KEPT = Retention()


class FrozenClock:
    """A clock that shows what it is told."""

    def __init__(self, moment: str) -> None:
        self.moment = datetime.fromisoformat(moment).replace(tzinfo=UTC)

    def now(self) -> float:
        """Return the moment."""
        return self.moment.timestamp()

    def monotonic(self) -> float:
        """Return the moment."""
        return self.now()


class MemoryCounters:
    """Counters in dictionaries."""

    def __init__(self) -> None:
        self.values: dict[str, Figures] = {}
        self.groups: dict[str, dict[str, Figures]] = {}
        self.sets: dict[str, set[str]] = {}
        self.limits: list[int] = []

    async def figures(self, period_keys: Sequence[str]) -> list[Figures]:
        """Return the figures of each period."""
        return [self.values.get(key, Figures()) for key in period_keys]

    async def broken_down(self, period_keys: Sequence[str], by: Breakdown) -> list[dict[str, Figures]]:
        """Return the figures of each period per agent or channel."""
        return [self.groups.get(f"{key}:{by}", {}) for key in period_keys]

    async def page(
        self, period_keys: Sequence[str], by: Breakdown, after: str | None, limit: int
    ) -> GroupPage:
        """Return the first ids behind one, and what each period has of them."""
        self.limits.append(limit)
        groups = await self.broken_down(period_keys, by)
        ids = sorted({name for group in groups for name in group if name > (after or "")})
        chosen = ids[:limit]
        some = [{name: group[name] for name in chosen if name in group} for group in groups]
        return GroupPage(chosen, some, len(ids) > limit)

    async def active(self, set_keys: Sequence[str]) -> list[int]:
        """Return the number of ids in each set."""
        return [len(self.sets.get(key, set())) for key in set_keys]

    async def active_in_all(self, set_keys: Sequence[str]) -> int:
        """Return the number of distinct ids in several sets."""
        return len(set().union(*(self.sets.get(key, set()) for key in set_keys)))


class OneTenant:
    """Registry with the tenant t1."""

    async def find(self, tenant_id: str) -> TenantInfo | None:
        """Return t1."""
        if tenant_id != "t1":
            return None
        return TenantInfo(
            tenant_id="t1",
            name="One",
            status="active",
            plan="pro",
            limits=Limits(agents=50),
            auto_create_channels=False,
        )


class Always:
    """What is kept, whatever the plan."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention

    async def retention(self, tenant_id: str, kind: Kind, start: date, today: date) -> Retention:
        """Return what is kept."""
        return self._retention


class Bench:
    """An API at a moment, with counters to fill."""

    def __init__(self, moment: str, retention: Retention = KEPT) -> None:
        self.counters = MemoryCounters()
        clock, keeping = FrozenClock(moment), Always(retention)
        self.api = UsageApi(self.counters, OneTenant(), clock, keeping, CursorBox(bytes(32)))

    async def ask(self, operation: str, query: Any, tenant_id: str = "t1") -> Any:
        """Call a handler as the HTTP kit does."""
        call = SimpleNamespace(query=query, tenant_id=tenant_id)
        return await getattr(self.api, operation)(call)


@pytest.mark.parametrize(
    ("moment", "start", "end", "month", "day"),
    [
        ("2026-12-31T23:59:59.999", "2026-12-01", "2027-01-01", "202612", "20261231"),
        ("2027-01-01T00:00:00", "2027-01-01", "2027-02-01", "202701", "20270101"),
        ("2028-02-29T12:00:00", "2028-02-01", "2028-03-01", "202802", "20280229"),
    ],
)
async def test_the_current_period_is_the_calendar_month(
    moment: str, start: str, end: str, month: str, day: str
) -> None:
    """The last instant of a month belongs to it, the first of the next to the next."""
    bench = Bench(moment)
    bench.counters.values = {
        f"stats:m:{month}:{{t1}}": Figures(messages=9, bytes_in=5, bytes_out=6, connection_ms=1500),
        f"stats:d:{day}:{{t1}}": Figures(messages=2),
    }
    bench.counters.sets = {f"active:m:{month}:{{t1}}:agents": {"a1", "a2"}}
    reply = await bench.ask("current", TenantQuery())
    assert (reply.current_period.start, reply.current_period.end) == (
        f"{start}T00:00:00Z",
        f"{end}T00:00:00Z",
    )
    assert (reply.usage.messages, reply.usage.bytes, reply.usage.connection_seconds) == (9, 11, 1.5)
    assert (reply.usage.active_agents, reply.today.messages, reply.today.active_agents) == (2, 2, 0)
    assert (reply.plan, reply.limits.agents) == ("pro", 50)


async def test_totals_are_the_sum_of_all_periods_and_active_ids_count_once() -> None:
    """An agent active on two days is one active agent of the range."""
    bench = Bench("2026-03-02T10:00:00")
    for day, agents in (("20260227", {"a1"}), ("20260302", {"a1", "a2"})):
        bench.counters.values[f"stats:d:{day}:{{t1}}"] = Figures(messages=5, deliveries=7)
        bench.counters.sets[f"active:d:{day}:{{t1}}:agents"] = agents
    reply = await bench.ask("metrics", MetricsQuery(start_date=datetime(2026, 2, 27).date()))
    assert [period.messages for period in reply.metrics] == [5, 0, 0, 5]
    assert [period.active_agents for period in reply.metrics] == [1, 0, 0, 2]
    assert (reply.totals.messages, reply.totals.deliveries, reply.totals.active_agents) == (10, 14, 2)
    assert reply.metrics[0].groups is None


async def test_groups_are_added_up_over_periods_and_sorted() -> None:
    """Each period has its groups, the totals have their sums, most messages first."""
    bench = Bench("2026-03-02T10:00:00")
    bench.counters.groups = {
        "stats:d:20260301:{t1}:channel": {"c1": Figures(messages=1), "c2": Figures(messages=5)},
        "stats:d:20260302:{t1}:channel": {"c1": Figures(messages=6)},
    }
    query = MetricsQuery(start_date=datetime(2026, 3, 1).date(), group_by="channel")
    reply = await bench.ask("metrics", query)
    shown = [[(group.channel_id, group.messages) for group in period.groups] for period in reply.metrics]
    assert shown == [[("c2", 5), ("c1", 1)], [("c1", 6)]]
    assert [(group.channel_id, group.messages) for group in reply.totals.groups] == [("c1", 7), ("c2", 5)]


async def test_groups_come_in_pages_where_that_is_asked_for() -> None:
    """In the order of ids, in each period and the totals; everything else is of everybody."""
    bench = Bench("2026-03-02T10:00:00")
    bench.counters.groups = {
        "stats:d:20260301:{t1}:agent": {"a1": Figures(messages=1), "a3": Figures(messages=5)},
        "stats:d:20260302:{t1}:agent": {"a1": Figures(messages=6), "a2": Figures(messages=9)},
    }
    bench.counters.values["stats:d:20260302:{t1}"] = Figures(messages=15)
    about: dict[str, Any] = {"start_date": date(2026, 3, 1), "group_by": "agent", "limit": 2}
    first = await bench.ask("metrics", MetricsQuery(**about))
    shown = [[(group.agent_id, group.messages) for group in period.groups] for period in first.metrics]
    assert shown == [[("a1", 1)], [("a1", 6), ("a2", 9)]]
    assert [(group.agent_id, group.messages) for group in first.totals.groups] == [("a1", 7), ("a2", 9)]
    assert (first.totals.messages, first.metrics[1].messages) == (15, 15)
    second = await bench.ask("metrics", MetricsQuery(**about, next_token=first.next_token))
    assert [(group.agent_id, group.messages) for group in second.totals.groups] == [("a3", 5)]
    assert second.next_token is None
    by_channel = MetricsQuery(**about | {"group_by": "channel"}, next_token=first.next_token)
    for query, tenant_id in ((by_channel, "t1"), (MetricsQuery(**about, next_token=first.next_token), "t2")):
        bench.counters.values["stats:d:20260302:{t2}"] = Figures(messages=1)
        with pytest.raises(ServiceError, match="next_token is not valid here"):
            await bench.ask("metrics", query, tenant_id)
    with pytest.raises(ServiceError, match="give group_by"):
        await bench.ask("metrics", MetricsQuery(limit=2))
    whole = await bench.ask("metrics", MetricsQuery(**about | {"limit": None}))
    assert whole.next_token is msgspec.UNSET


async def test_a_page_of_many_periods_is_short() -> None:
    """Each period has figures of its own for an id: an answer never has more than fifty thousand."""
    bench = Bench("2026-03-31T10:00:00")
    query = MetricsQuery(start_date=date(2026, 3, 2), granularity="hour", group_by="agent", limit=1000)
    await bench.ask("metrics", query)
    assert bench.counters.limits == [50_000 // (30 * 24)]


async def test_months_that_are_cut_off_hold_only_their_part() -> None:
    """A range from the middle of a month leaves out what was counted before it."""
    bench = Bench("2026-03-02T10:00:00")
    bench.counters.values = {
        "stats:m:202602:{t1}": Figures(messages=100),
        "stats:m:202603:{t1}": Figures(messages=7),
        "stats:d:20260228:{t1}": Figures(messages=3),
    }
    query = MetricsQuery(start_date=datetime(2026, 2, 28).date(), granularity="month")
    reply = await bench.ask("metrics", query)
    assert [(period.start[:10], period.messages) for period in reply.metrics] == [
        ("2026-02-28", 3),
        ("2026-03-01", 7),
    ]


async def test_history_has_every_day_oldest_first() -> None:
    """Days without usage are zeros, and a leap day is a day."""
    bench = Bench("2028-03-01T00:00:00")
    bench.counters.values["stats:d:20280229:{t1}"] = Figures(messages=4)
    reply = await bench.ask("history", HistoryQuery(days=3))
    assert [(str(day.date), day.messages) for day in reply.history] == [
        ("2028-02-28", 0),
        ("2028-02-29", 4),
        ("2028-03-01", 0),
    ]
    assert reply.totals.messages == 4


async def test_history_refuses_days_that_are_no_longer_kept() -> None:
    """Where a plan keeps days for 40 days, the 41st before today is no zero but a refusal."""
    bench = Bench("2028-03-11T12:00:00", Retention(days=40, rolled_days=40))
    assert (await bench.ask("history", HistoryQuery(days=41))).history[0].date == date(2028, 1, 31)
    with pytest.raises(ServiceError, match="kept since 2028-01-31; 2028-01-30 is before that") as caught:
        await bench.ask("history", HistoryQuery(days=42))
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


async def test_the_summary_includes_today_in_each_span() -> None:
    """Seven days are today and six before, thirty are today and twenty-nine before."""
    bench = Bench("2026-03-31T23:59:59")
    for day, messages in (
        ("20260331", 1),
        ("20260325", 10),
        ("20260324", 100),
        ("20260302", 1000),
        ("20260301", 10_000),
    ):
        bench.counters.values[f"stats:d:{day}:{{t1}}"] = Figures(messages=messages)
    reply = await bench.ask("summary", TenantQuery())
    assert (reply.today.messages, reply.last_7_days.messages, reply.last_30_days.messages) == (1, 11, 1111)


async def test_a_tenant_without_traffic_has_zeros_everywhere() -> None:
    """Whatever is asked, over a leap day and the end of a month: each period is there, with nothing in it."""
    bench = Bench("2028-03-01T12:00:00")
    figures = (
        "messages", "deliveries", "bytes", "bytes_in", "bytes_out", "api_calls", "connection_seconds",
    )  # fmt: skip

    def nothing(usage: Any) -> bool:
        return not any(getattr(usage, name) for name in (*figures, "active_agents", "active_channels"))

    current = await bench.ask("current", TenantQuery())
    assert nothing(current.usage) and nothing(current.today)
    summary = await bench.ask("summary", TenantQuery())
    assert nothing(summary.today) and nothing(summary.last_7_days) and nothing(summary.last_30_days)
    history = await bench.ask("history", HistoryQuery(days=3))
    assert [f"{day.date}" for day in history.history] == ["2028-02-28", "2028-02-29", "2028-03-01"]
    assert all(map(nothing, [*history.history, history.totals]))
    for granularity, by, number in (("hour", "agent", 72), ("day", "channel", 3), ("month", None, 2)):
        query = MetricsQuery(
            start_date=date(2028, 2, 28),
            end_date=date(2028, 3, 1),
            granularity=granularity,  # type: ignore[arg-type]
            group_by=by,  # type: ignore[arg-type]
        )
        reply = await bench.ask("metrics", query)
        assert len(reply.metrics) == number
        assert all(map(nothing, [*reply.metrics, reply.totals]))
        assert reply.totals.groups == ([] if by else None)


async def test_a_tenant_that_never_was_is_not_found_and_a_deleted_one_is_still_shown() -> None:
    """Nothing is invented for an unknown tenant; what a deleted one has used can still be billed."""
    bench = Bench("2026-03-02T10:00:00")
    for operation, query in (
        ("current", TenantQuery()),
        ("metrics", MetricsQuery()),
        ("history", HistoryQuery()),
        ("summary", TenantQuery()),
    ):
        with pytest.raises(ServiceError) as caught:
            await bench.ask(operation, query, "gone")
        assert caught.value.code is ErrorCode.NOT_FOUND
    bench.counters.values["stats:m:202603:{gone}"] = Figures(messages=3)
    reply = await bench.ask("current", TenantQuery(), "gone")
    assert (reply.plan, reply.usage.messages, reply.limits) == (None, 3, Limits())


async def test_months_are_those_that_were_asked_for() -> None:
    """`GET_MONTHS` gives each tenant's messages of that month, whatever time it is here."""
    bench = Bench("2027-01-01T00:00:00")
    bench.counters.values["stats:m:202612:{t1}"] = Figures(messages=42)
    reply = await bench.api.months(GetMonths(month="2026-12", tenant_ids=["t1", "t2"]))
    assert (reply.month, reply.messages) == ("2026-12", {"t1": 42, "t2": 0})


@pytest.mark.parametrize(
    "request_",
    [
        GetMonths(month="2026-13", tenant_ids=["t1"]),
        GetMonths(month="2026", tenant_ids=["t1"]),
        GetMonths(month="2026-12", tenant_ids=["t1}:x"]),
        GetMonths(month="2026-12", tenant_ids=["t1"] * 1001),
    ],
)
async def test_months_that_are_no_question_are_refused(request_: GetMonths) -> None:
    """A month, an id or a number of tenants that cannot be is refused before it becomes a key."""
    with pytest.raises(ServiceError) as caught:
        await Bench("2026-12-31T00:00:00").api.months(request_)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
