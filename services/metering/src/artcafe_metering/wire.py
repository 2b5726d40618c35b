"""What REST takes and gives."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

import msgspec

from artcafe_common.contracts.registry import Limits
from artcafe_metering.figures import Figures
from artcafe_metering.keys import Breakdown

Granularity = Literal["hour", "day", "month"]
HISTORY_DAYS_MAX = 90
GROUPS_PAGE_DEFAULT = 100
GROUPS_PAGE_MAX = 1_000


class TenantQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which organisation is meant, for those who may see several; as the header ``X-Tenant-Id``."""

    tenant_id: str | None = None


class MetricsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A range of UTC dates, both included, and how to divide it.

    With `limit` or `next_token` the groups come in pages, in the order of their ids.
    """

    start_date: date | None = None
    end_date: date | None = None
    granularity: Granularity = "day"
    group_by: Breakdown | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=GROUPS_PAGE_MAX)] | None = None
    next_token: str | None = None
    tenant_id: str | None = None


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many days, today included."""

    days: Annotated[int, msgspec.Meta(ge=1, le=HISTORY_DAYS_MAX)] = 30
    tenant_id: str | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What was used. `bytes` is `bytes_in` and `bytes_out` together, of message data in UTF-8."""

    messages: int
    deliveries: int
    bytes: int
    bytes_in: int
    bytes_out: int
    api_calls: int
    connection_seconds: float


class ActiveUsage(Usage, frozen=True, kw_only=True):
    """What was used, and how many distinct agents and channels had a part in it."""

    active_agents: int
    active_channels: int


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """From `start` until before `end`, RFC 3339 UTC."""

    start: str
    end: str


class GroupUsage(Usage, frozen=True, kw_only=True, omit_defaults=True):
    """What one agent used, or what was used in one channel. What people publish is in its channel alone."""

    agent_id: str | None = None
    channel_id: str | None = None


class PeriodUsage(Usage, frozen=True, kw_only=True, omit_defaults=True):
    """What was used from `start` until before `end`; active ids are counted by day and by month.

    `groups` is there with `group_by`: what no agent or channel had a part in (API calls) is in none of them.
    """

    start: str
    end: str
    active_agents: int | None = None
    active_channels: int | None = None
    groups: list[GroupUsage] | None = None


class TotalUsage(ActiveUsage, frozen=True, kw_only=True, omit_defaults=True):
    """What was used in the whole range; with `group_by` also for each agent or channel."""

    groups: list[GroupUsage] | None = None


class CurrentReply(msgspec.Struct, frozen=True, kw_only=True):
    """The running billing month (a calendar month, UTC), with today beside it."""

    tenant_id: str
    plan: str | None
    current_period: Span
    usage: ActiveUsage
    today: ActiveUsage
    limits: Limits


class MetricsReply(msgspec.Struct, frozen=True, kw_only=True):
    """A range of dates by hour, day or month; periods without usage are there with zeros.

    `next_token` is there where the groups were asked for in pages: the groups are those of the page, in the
    periods and in the totals; all other figures are of everybody.
    """

    tenant_id: str
    plan: str | None
    start_date: date
    end_date: date
    granularity: Granularity
    group_by: Breakdown | None
    metrics: list[PeriodUsage]
    totals: TotalUsage
    limits: Limits
    next_token: str | msgspec.UnsetType | None = msgspec.UNSET


class DayUsage(ActiveUsage, frozen=True, kw_only=True):
    """What was used on one day, UTC."""

    date: date


class HistoryReply(msgspec.Struct, frozen=True, kw_only=True):
    """The last days, oldest first, today included."""

    tenant_id: str
    days: int
    history: list[DayUsage]
    totals: ActiveUsage


class SummaryReply(msgspec.Struct, frozen=True, kw_only=True):
    """Today, the last 7 and the last 30 days, today included in each."""

    tenant_id: str
    plan: str | None
    today: ActiveUsage
    last_7_days: ActiveUsage
    last_30_days: ActiveUsage
    limits: Limits


def shown(figures: Figures) -> dict[str, int | float]:
    """Return figures as the fields of `Usage`."""
    return {
        "messages": figures.messages,
        "deliveries": figures.deliveries,
        "bytes": figures.bytes_in + figures.bytes_out,
        "bytes_in": figures.bytes_in,
        "bytes_out": figures.bytes_out,
        "api_calls": figures.api_calls,
        "connection_seconds": figures.connection_ms / 1000,
    }


def active_usage(figures: Figures, agents: int, channels: int) -> ActiveUsage:
    """Return figures with the numbers of active ids."""
    return msgspec.convert(
        shown(figures) | {"active_agents": agents, "active_channels": channels}, ActiveUsage
    )


def group_usage(name: str, figures: Figures, by: Breakdown) -> GroupUsage:
    """Return the figures of an agent or a channel."""
    return msgspec.convert(shown(figures) | {f"{by}_id": name}, GroupUsage)
