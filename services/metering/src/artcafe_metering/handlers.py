"""The REST operations under /usage, and what other services ask."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

import msgspec

from artcafe_common.clock import Clock
from artcafe_common.contracts.metering import GetMonths, Months
from artcafe_common.contracts.registry import Limits, TenantInfo
from artcafe_common.errors import ErrorCode, invalid, not_found
from artcafe_common.http import Call, CursorBox, Operation
from artcafe_common.ids import check_tenant_id
from artcafe_common.roles import Permission
from artcafe_metering import keys, periods, ranges
from artcafe_metering.counters import BROKEN_DOWN_MAX, Counters
from artcafe_metering.figures import Figures, total, total_by_name
from artcafe_metering.groups import PART_IDS
from artcafe_metering.keeping import Keeping
from artcafe_metering.keys import Breakdown, Kind
from artcafe_metering.ranges import Period
from artcafe_metering.tenants import Tenants
from artcafe_metering.wire import (
    GROUPS_PAGE_DEFAULT,
    ActiveUsage,
    CurrentReply,
    DayUsage,
    GroupUsage,
    HistoryQuery,
    HistoryReply,
    MetricsQuery,
    MetricsReply,
    PeriodUsage,
    Span,
    SummaryReply,
    TenantQuery,
    TotalUsage,
    active_usage,
    group_usage,
    shown,
)

TENANTS_MAX = 1000
_METRICS_ROUTE = "usage/metrics"

GroupSums = dict[str, Figures]


class UsageApi:
    """What billing and dashboards ask."""

    def __init__(
        self, counters: Counters, tenants: Tenants, clock: Clock, keeping: Keeping, cursors: CursorBox
    ) -> None:
        self._counters = counters
        self._tenants = tenants
        self._clock = clock
        self._keeping = keeping
        self._cursors = cursors

    def operations(self) -> list[Operation]:
        """Return the routes."""
        read = Permission.USAGE_READ
        errors = (ErrorCode.NOT_FOUND,)
        return [
            Operation(
                "GET", "/usage/current", self.current, "Usage of the current month and of today",
                read, query=TenantQuery, reply=CurrentReply, errors=errors, tags=("usage",),
            ),
            Operation(
                "GET", "/usage/metrics", self.metrics, "Usage of a range of dates by hour, day or month",
                read, query=MetricsQuery, reply=MetricsReply, errors=errors, tags=("usage",),
                description="`group_by` alone gives all groups, most messages first, of at most 50 000; with "
                "`limit` and `next_token` they come in pages, in the order of their ids.",
            ),
            Operation(
                "GET", "/usage/history", self.history, "Usage of the last days",
                read, query=HistoryQuery, reply=HistoryReply, errors=errors, tags=("usage",),
            ),
            Operation(
                "GET", "/usage/summary", self.summary, "Usage of today, the last 7 and the last 30 days",
                read, query=TenantQuery, reply=SummaryReply, errors=errors, tags=("usage",),
            ),
        ]  # fmt: skip

    async def current(self, call: Call) -> CurrentReply:
        """Answer GET /usage/current."""
        tenant_id, today = call.tenant_id, self._today()
        month, day = await self._counters.figures(
            [keys.month_key(tenant_id, today), keys.day_key(tenant_id, today)]
        )
        sets = [
            keys.active_month_key(tenant_id, today, "agent"),
            keys.active_month_key(tenant_id, today, "channel"),
            keys.active_day_key(tenant_id, today, "agent"),
            keys.active_day_key(tenant_id, today, "channel"),
        ]
        month_agents, month_channels, day_agents, day_channels = await self._counters.active(sets)
        tenant = await self._tenant(tenant_id, month)
        first = periods.first_of_month(today)
        return CurrentReply(
            tenant_id=tenant_id,
            plan=_plan(tenant),
            current_period=Span(
                start=periods.rfc3339(periods.midnight(first)),
                end=periods.rfc3339(periods.midnight(periods.first_of_next_month(first))),
            ),
            usage=active_usage(month, month_agents, month_channels),
            today=active_usage(day, day_agents, day_channels),
            limits=_limits(tenant),
        )

    async def metrics(self, call: Call) -> MetricsReply:
        """Answer GET /usage/metrics."""
        query: MetricsQuery = call.query
        tenant_id, today, by = call.tenant_id, self._today(), query.group_by
        if by is None and (query.limit is not None or query.next_token is not None):
            raise invalid("limit and next_token are for groups: give group_by, too")
        start, end = ranges.resolve(query.start_date, query.end_date, query.granularity, today)
        kind: Kind = "hour" if query.granularity == "hour" else "day"
        retention = await self._keeping.retention(tenant_id, kind, start, today)
        chosen = ranges.divide(tenant_id, start, end, query.granularity, today, retention, by)
        figures = await self._figures(chosen)
        agents = await self._active(tenant_id, chosen, "agent")
        channels = await self._active(tenant_id, chosen, "channel")
        groups, next_token = await self._groups(tenant_id, query, chosen)
        tenant = await self._tenant(tenant_id, total(figures))
        shown_groups = [await _shown_groups(group, query) for group in groups]
        totals_groups = await _shown_groups(await _summed(groups), query) if by else None
        return MetricsReply(
            tenant_id=tenant_id,
            plan=_plan(tenant),
            start_date=start,
            end_date=end,
            granularity=query.granularity,
            group_by=by,
            metrics=[
                msgspec.convert(
                    shown(counted)
                    | {
                        "start": periods.rfc3339(period.start),
                        "end": periods.rfc3339(period.end),
                        "active_agents": active_agents,
                        "active_channels": active_channels,
                        "groups": group,
                    },
                    PeriodUsage,
                )
                for period, counted, active_agents, active_channels, group in zip(
                    chosen, figures, agents, channels, shown_groups, strict=True
                )
            ],
            totals=msgspec.convert(
                shown(total(figures))
                | {
                    "active_agents": await self._counters.active_in_all(
                        ranges.active_keys(tenant_id, chosen, start, end, "agent")
                    ),
                    "active_channels": await self._counters.active_in_all(
                        ranges.active_keys(tenant_id, chosen, start, end, "channel")
                    ),
                    "groups": totals_groups,
                },
                TotalUsage,
            ),
            limits=_limits(tenant),
            next_token=next_token,
        )

    async def history(self, call: Call) -> HistoryReply:
        """Answer GET /usage/history."""
        query: HistoryQuery = call.query
        tenant_id = call.tenant_id
        days = self._last_days(query.days)
        retention = await self._keeping.retention(tenant_id, "day", days[0], days[-1])
        ranges.check_days_kept(days[0], days[-1], retention)
        figures = await self._counters.figures([keys.day_key(tenant_id, day) for day in days])
        agents = await self._counters.active([keys.active_day_key(tenant_id, day, "agent") for day in days])
        channels = await self._counters.active(
            [keys.active_day_key(tenant_id, day, "channel") for day in days]
        )
        await self._tenant(tenant_id, total(figures))
        history = [
            msgspec.convert(
                shown(counted) | {"date": day, "active_agents": a, "active_channels": c}, DayUsage
            )
            for day, counted, a, c in zip(days, figures, agents, channels, strict=True)
        ]
        totals = await self._together(tenant_id, days, figures)
        return HistoryReply(tenant_id=tenant_id, days=len(days), history=history, totals=totals)

    async def summary(self, call: Call) -> SummaryReply:
        """Answer GET /usage/summary."""
        tenant_id = call.tenant_id
        days = self._last_days(30)
        figures = await self._counters.figures([keys.day_key(tenant_id, day) for day in days])
        tenant = await self._tenant(tenant_id, total(figures))
        return SummaryReply(
            tenant_id=tenant_id,
            plan=_plan(tenant),
            today=await self._together(tenant_id, days[-1:], figures[-1:]),
            last_7_days=await self._together(tenant_id, days[-7:], figures[-7:]),
            last_30_days=await self._together(tenant_id, days, figures),
            limits=_limits(tenant),
        )

    async def months(self, request: GetMonths) -> Months:
        """Answer `GET_MONTHS`. Raises: ServiceError."""
        if len(request.tenant_ids) > TENANTS_MAX:
            raise invalid(f"at most {TENANTS_MAX} tenants")
        tenant_ids = [check_tenant_id(tenant_id) for tenant_id in request.tenant_ids]
        try:
            first = datetime.strptime(request.month, "%Y-%m").date()
        except ValueError:
            raise invalid("month must be YYYY-MM") from None
        figures = await self._counters.figures([keys.month_key(tenant_id, first) for tenant_id in tenant_ids])
        counted = [each.messages for each in figures]
        return Months(month=request.month, messages=dict(zip(tenant_ids, counted, strict=True)))

    def _today(self) -> date:
        return periods.utc(self._clock.now()).date()

    def _last_days(self, number: int) -> list[date]:
        today = self._today()
        return periods.days_of(today - timedelta(days=number - 1), today)

    async def _tenant(self, tenant_id: str, counted: Figures) -> TenantInfo | None:
        """Return the tenant; None for one that was deleted but still has something to be billed."""
        tenant = await self._tenants.find(tenant_id)
        if tenant is None and not counted:
            raise not_found("tenant")
        return tenant

    async def _figures(self, chosen: Sequence[Period]) -> list[Figures]:
        counted = iter(
            await self._counters.figures([key for period in chosen for key in period.counter_keys])
        )
        return [total(next(counted) for _ in period.counter_keys) for period in chosen]

    async def _groups(
        self, tenant_id: str, query: MetricsQuery, chosen: Sequence[Period]
    ) -> tuple[list[GroupSums | None], str | msgspec.UnsetType | None]:
        """Return the groups of each period, and where they go on if they were asked for in pages."""
        by, next_token = query.group_by, msgspec.UNSET
        if by is None:
            return [None] * len(chosen), next_token
        names = [key for period in chosen for key in period.counter_keys]
        if query.limit is None and query.next_token is None:
            parts = iter(await self._counters.broken_down(names, by))
            return [
                await _summed([next(parts) for _ in period.counter_keys]) for period in chosen
            ], next_token
        # Each period has its own figures of an id: many periods make short pages.
        limit = min(query.limit or GROUPS_PAGE_DEFAULT, max(1, BROKEN_DOWN_MAX // len(names)))
        route = f"{_METRICS_ROUTE} {by}"
        opened = self._cursors.open(query.next_token, tenant_id, route)
        page = await self._counters.page(names, by, str(opened["after"]) if opened else None, limit)
        parts = iter(page.groups)
        groups: list[GroupSums | None] = [
            total_by_name([next(parts) for _ in period.counter_keys]) for period in chosen
        ]
        more = {"after": page.ids[-1]} if page.more else None
        return groups, self._cursors.seal(more, tenant_id, route)

    async def _active(self, tenant_id: str, chosen: Sequence[Period], by: Breakdown) -> list[int | None]:
        """Return the number of active ids of each period; None for hours, of which no sets are kept."""
        sets = [period.active_keys(tenant_id, by) for period in chosen]
        single = iter(await self._counters.active([keys[0] for keys in sets if len(keys) == 1]))
        return [
            next(single) if len(keys) == 1 else await self._counters.active_in_all(keys) if keys else None
            for keys in sets
        ]

    async def _together(
        self, tenant_id: str, days: Sequence[date], figures: Sequence[Figures]
    ) -> ActiveUsage:
        agents, channels = [
            await self._counters.active_in_all([keys.active_day_key(tenant_id, day, by) for day in days])
            for by in ("agent", "channel")
        ]
        return active_usage(total(figures), agents, channels)


def _plan(tenant: TenantInfo | None) -> str | None:
    return tenant.plan if tenant else None


def _limits(tenant: TenantInfo | None) -> Limits:
    return tenant.limits if tenant else Limits()


async def _summed(groups: Sequence[GroupSums | None]) -> GroupSums:
    """Return the sums by id; others get their turn between two of many."""
    sums: GroupSums = {}
    for group in groups:
        for number, (name, figures) in enumerate((group or {}).items()):
            sums[name] = sums[name] + figures if name in sums else figures
            if number % PART_IDS == 0:
                await asyncio.sleep(0)
    return sums


async def _shown_groups(groups: Mapping[str, Figures] | None, query: MetricsQuery) -> list[GroupUsage] | None:
    """Return groups as they are shown: pages in the order of ids, which does not move, else by messages."""
    by = query.group_by
    if groups is None or by is None:
        return None
    in_pages = query.limit is not None or query.next_token is not None
    ordered = sorted(groups) if in_pages else sorted(groups, key=lambda name: (-groups[name].messages, name))
    found: list[GroupUsage] = []
    for number, name in enumerate(ordered):
        found.append(group_usage(name, groups[name], by))
        if number % PART_IDS == 0:
            await asyncio.sleep(0)
    return found
