"""What came of recounting each day: kept for as long as the day's counters, and GET /usage/reconciliation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import date, timedelta
from typing import Literal

import msgspec

from artcafe_common.clock import Clock, rfc3339
from artcafe_common.errors import ErrorCode, invalid
from artcafe_common.http import Call, Operation
from artcafe_common.roles import Permission
from artcafe_metering import keys, periods, ranges
from artcafe_metering.adjustments import RangeQuery
from artcafe_metering.counters import Counters
from artcafe_metering.figures import Figures
from artcafe_metering.keys import BREAKDOWNS, Breakdown
from artcafe_metering.outcomes import Outcome, Parts, Scope
from artcafe_metering.periods import Retention
from artcafe_metering.tenants import Tenants, check_known
from artcafe_metering.valkey import Valkey
from artcafe_metering.wire import Usage, shown

# Beside the tenants, which have names without colons. Which of a tenant's agents and channels differ is in
# fields of their own, `T:agent` and `T:channel`.
_CHECKED_AT = ""
_STAMP = ":stamp"
_APART = ":apart"

Result = Literal["equal", "different", "not_compared"]


class DifferentPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent or a channel whose counters are not what its batches come to."""

    agent_id: str | None = None
    channel_id: str | None = None
    counted: Usage
    recounted: Usage


class ReconciledDay(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a day's counters are what its batches come to; both figures where they are not, else null.

    Also where both are the same a day is different if those of an agent or a channel are not: `groups` has
    some of these (people count as agents), `agents_different` and `channels_different` is how many there are.
    """

    date: date
    result: Result
    checked_at: str | None = None
    counted: Usage | None = None
    recounted: Usage | None = None
    agents_different: int = 0
    channels_different: int = 0
    groups: list[DifferentPart] = msgspec.field(default_factory=list)


class ReconciliationReply(msgspec.Struct, frozen=True, kw_only=True):
    """The days of a range, oldest first. A day is compared once it is closed."""

    tenant_id: str
    start_date: date
    end_date: date
    days: list[ReconciledDay]


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a day is counted for, compared, compared since it was last counted for; how far it is off."""

    day: date
    is_counted: bool
    is_compared: bool
    is_current: bool
    apart: Mapping[Scope, Figures] = field(default_factory=dict)


class Reconciled:
    """The outcomes in Valkey; keys as in `artcafe_metering.keys`."""

    def __init__(self, valkey: Valkey, retention: Retention) -> None:
        self._valkey = valkey
        self._retention = retention

    async def keep(self, outcome: Outcome, now: float) -> None:
        """Keep an outcome in place of an earlier one of the same day."""
        key = keys.reconciled_key(outcome.day)
        fields: list[str | bytes] = [_CHECKED_AT, rfc3339(now), _STAMP, outcome.stamp]
        if outcome.differences:
            fields += [_APART, _encode(outcome.comparison.apart)]
        for each in outcome.differences:
            fields += [each.tenant_id, _encode((astuple(each.counted), astuple(each.recounted)))]
            for by, parts in each.parts.items():
                fields += [f"{each.tenant_id}:{by}", _encode(parts)]
        expiry = periods.day_expiry(outcome.day, self._retention)
        await self._valkey.read_at_once([("DEL", key), ("HSET", key, *fields), ("EXPIREAT", key, expiry)])

    async def stamp(self, day: date) -> str:
        """Return what changes whenever something is counted for a day; empty where nothing was."""
        (stamp,) = await self._valkey.read([("GET", keys.changed_key(day))])
        return (stamp or b"").decode()

    async def standings(self, days: Sequence[date]) -> list[Standing]:
        """Return where days stand."""
        fields = (_CHECKED_AT, _STAMP, _APART)
        outcomes = await self._valkey.read(("HMGET", keys.reconciled_key(day), *fields) for day in days)
        changed = await self._valkey.read(("GET", keys.changed_key(day)) for day in days)
        return [
            Standing(
                day,
                is_counted=stamp is not None,
                is_compared=checked_at is not None,
                # There is none where agents and channels were not compared yet.
                is_current=compared is not None and compared == (stamp or b""),
                apart=_decode_apart(apart) if apart else {},
            )
            for day, (checked_at, compared, apart), stamp in zip(days, outcomes, changed, strict=True)
        ]

    async def of(self, tenant_id: str, days: Sequence[date]) -> list[ReconciledDay]:
        """Return what came of some days for a tenant."""
        fields = (_CHECKED_AT, tenant_id, *(f"{tenant_id}:{by}" for by in BREAKDOWNS))
        answers = await self._valkey.read(("HMGET", keys.reconciled_key(day), *fields) for day in days)
        return [_day(day, *answer) for day, answer in zip(days, answers, strict=True)]


class ReconciliationApi:
    """What billing asks before it sends a bill."""

    def __init__(
        self, reconciled: Reconciled, counters: Counters, tenants: Tenants, clock: Clock, retention: Retention
    ) -> None:
        self._reconciled = reconciled
        self._counters = counters
        self._tenants = tenants
        self._clock = clock
        self._retention = retention

    def operations(self) -> list[Operation]:
        """Return the route."""
        return [
            Operation(
                "GET", "/usage/reconciliation", self.reconciliation,
                "Whether the days' counters are what was recounted from the batches",
                Permission.USAGE_READ, query=RangeQuery, reply=ReconciliationReply,
                errors=(ErrorCode.NOT_FOUND,), tags=("usage",),
            ),
        ]  # fmt: skip

    async def reconciliation(self, call: Call) -> ReconciliationReply:
        """Answer GET /usage/reconciliation."""
        query: RangeQuery = call.query
        today = periods.utc(self._clock.now()).date()
        start, end = ranges.resolve(query.start_date, query.end_date, "day", today)
        # With the day's counters, not as long as what was closed: `not_compared` would be wrong there.
        oldest = today - timedelta(days=self._retention.days)
        if start < oldest:
            raise invalid(f"what came of recounting is kept since {oldest}; {start} is before that")
        await check_known(self._tenants, self._counters, call.tenant_id, start, end)
        days = await self._reconciled.of(call.tenant_id, periods.days_of(start, end))
        return ReconciliationReply(tenant_id=call.tenant_id, start_date=start, end_date=end, days=days)


_encode = msgspec.json.Encoder().encode
_decode_apart = msgspec.json.Decoder(dict[Scope, Figures]).decode
_decode_parts = msgspec.json.Decoder(Parts).decode


def _day(day: date, checked_at: bytes | None, both: bytes | None, *parts: bytes | None) -> ReconciledDay:
    if checked_at is None:
        return ReconciledDay(date=day, result="not_compared")
    if both is None:
        return ReconciledDay(date=day, result="equal", checked_at=checked_at.decode())
    counted, recounted = (
        _usage(Figures(*figures)) for figures in msgspec.json.decode(both, type=tuple[list[int], list[int]])
    )
    agents, channels = (_decode_parts(each) if each else Parts() for each in parts)
    return ReconciledDay(
        date=day,
        result="different",
        checked_at=checked_at.decode(),
        counted=counted,
        recounted=recounted,
        agents_different=agents.number,
        channels_different=channels.number,
        groups=[*_different("agent", agents), *_different("channel", channels)],
    )


def _different(by: Breakdown, parts: Parts) -> list[DifferentPart]:
    return [
        DifferentPart(
            agent_id=part.name if by == "agent" else None,
            channel_id=part.name if by == "channel" else None,
            counted=_usage(part.counted),
            recounted=_usage(part.recounted),
        )
        for part in parts.named
    ]


def _usage(figures: Figures) -> Usage:
    return msgspec.convert(shown(figures), Usage)
