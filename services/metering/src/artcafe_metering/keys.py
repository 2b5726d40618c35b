"""The keys in Valkey. All keys of a tenant share the hash tag ``{tenant_id}``, so one script may touch them.

| key | type | holds |
|---|---|---|
| `stats:h:YYYYMMDD:HH:{T}` | hash | the tenant's figures of an hour, UTC |
| `stats:d:YYYYMMDD:{T}` | hash | of a day |
| `stats:m:YYYYMM:{T}` | hash | of a month |
| `stats:h:...:{T}:agent`, `:channel` | hash | an hour's figures of each agent, of each channel |
| `stats:d:...:{T}:agent`, `:channel` | hash | a day's |
| `active:d:YYYYMMDD:{T}:agents`, `:channels` | set | ids of a day |
| `active:m:YYYYMM:{T}:agents`, `:channels` | set | ids of a month |
| `applied:{T}:<source>` | string | which of a source's batches were applied for the tenant (`apply.lua`) |
| `sources:{<source>}` | string | which of a source's batches were applied for all tenants (`mark.lua`) |
| `aside:{<source>}` | string | that the bad rows of a batch were put aside, under this source (`dead.py`) |
| `counters:since` | string | since when these counters count (`generation.py`) |
| `counters:lost` | string | when they were found lost, until `counters:since` says so (`generation.py`) |
| `unrolled:{h:YYYYMMDD:HH}`, `{d:YYYYMMDD}` | hash | tenants that are to be rolled up (`roller.py`) |
| `rolled:until` | string | every period that was closed by then is rolled up (`roller.py`) |
| `changed:{d:YYYYMMDD}` | string | a stamp, another one whenever something was counted for the day |
| `reconciled:{d:YYYYMMDD}` | hash | what came of recounting a day (`reconciled.py`) |

The figures are `messages`, `deliveries`, `bytes_in`, `bytes_out`, `api_calls` and `connection_ms`: fields of
the first three, and packed as doubles in this order (`PACKED`) in the hashes that have a field for each id. A
key of a period expires its time of retention after the end of the period, and has that expiry from its first
write; once the period is rolled up it goes sooner where the tenant's plan keeps less. `applied` and `sources`
live 15 days from the last write, twice as long as the stream keeps a batch; `aside` 45 days, longer than what
was put aside is kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from struct import Struct
from typing import Literal

Breakdown = Literal["agent", "channel"]
BREAKDOWNS: tuple[Breakdown, ...] = ("agent", "channel")
Kind = Literal["hour", "day"]

FIGURES = ("messages", "deliveries", "bytes_in", "bytes_out", "api_calls", "connection_ms")
# One value for an id instead of six fields: a fifth of the memory and of the commands.
PACKED = Struct(f"<{len(FIGURES)}d")


SINCE = "counters:since"
LOST = "counters:lost"
ROLLED_UNTIL = "rolled:until"


def hour_key(tenant_id: str, hour: datetime) -> str:
    """Return the key of an hour's figures."""
    return f"stats:h:{hour:%Y%m%d:%H}:{{{tenant_id}}}"


def day_key(tenant_id: str, day: date) -> str:
    """Return the key of a day's figures."""
    return f"stats:d:{day:%Y%m%d}:{{{tenant_id}}}"


def month_key(tenant_id: str, day: date) -> str:
    """Return the key of the figures of the month in which a day lies."""
    return f"stats:m:{day:%Y%m}:{{{tenant_id}}}"


def breakdown_key(period_key: str, by: Breakdown) -> str:
    """Return the key of an hour's or a day's figures per agent or per channel."""
    return f"{period_key}:{by}"


def active_day_key(tenant_id: str, day: date, by: Breakdown) -> str:
    """Return the key of the set of a day's active agents or channels."""
    return f"active:d:{day:%Y%m%d}:{{{tenant_id}}}:{by}s"


def active_month_key(tenant_id: str, day: date, by: Breakdown) -> str:
    """Return the key of the set of a month's active agents or channels."""
    return f"active:m:{day:%Y%m}:{{{tenant_id}}}:{by}s"


def keys_of(tenant_id: str, kind: Kind, start: datetime) -> list[str]:
    """Return all keys of an hour or a day."""
    day = start.date()
    key = hour_key(tenant_id, start) if kind == "hour" else day_key(tenant_id, day)
    sets = [active_day_key(tenant_id, day, by) for by in BREAKDOWNS] if kind == "day" else []
    return [key, *(breakdown_key(key, by) for by in BREAKDOWNS), *sets]


def applied_key(tenant_id: str, source: str) -> str:
    """Return the key that tells which batches of a source were applied for a tenant."""
    return f"applied:{{{tenant_id}}}:{source}"


def source_key(source: str) -> str:
    """Return the key that tells which batches of a source were applied for every tenant."""
    return f"sources:{{{source}}}"


def aside_key(source: str) -> str:
    """Return the key that tells that what is bad of a batch was put aside, under a source of its own."""
    return f"aside:{{{source}}}"


def unrolled_key(kind: Kind, start: datetime) -> str:
    """Return the key that tells whose usage of an hour or a day is to be looked at by the rollup."""
    return f"unrolled:{{h:{start:%Y%m%d:%H}}}" if kind == "hour" else f"unrolled:{{d:{start:%Y%m%d}}}"


def changed_key(day: date) -> str:
    """Return the key of the stamp that tells whether a day's counters are those that one has read."""
    return f"changed:{{d:{day:%Y%m%d}}}"


def reconciled_key(day: date) -> str:
    """Return the key of what came of recounting a day."""
    return f"reconciled:{{d:{day:%Y%m%d}}}"


@dataclass(frozen=True, slots=True)
class Place:
    """What a key of an hour or a day is about."""

    tenant_id: str
    kind: Kind
    start: datetime

    @property
    def end(self) -> datetime:
        """The moment at which the hour or the day ends."""
        return self.start + timedelta(**{f"{self.kind}s": 1})

    @property
    def figures_key(self) -> str:
        """The key of its figures."""
        if self.kind == "hour":
            return hour_key(self.tenant_id, self.start)
        return day_key(self.tenant_id, self.start.date())


@dataclass(frozen=True, slots=True)
class MonthPlace:
    """What a key of a month is about; `by` where it is the set of ids, not the figures."""

    tenant_id: str
    first: date
    by: Breakdown | None


_MONTH_RE = re.compile(r"(?:stats|active):m:(\d{6}):\{([^}]+)\}(?::(agent|channel)s)?")
_PLACE_RE = re.compile(r"(?:stats|active):([hd]):(\d{8})(?::(\d\d))?:\{([^}]+)\}")


def place_of(key: str) -> Place | None:
    """Return what a key is about; None for those of months."""
    match = _PLACE_RE.match(key)
    if match is None:
        return None
    letter, day, hour, tenant_id = match.groups()
    start = datetime.strptime(day + (hour or "00"), "%Y%m%d%H").replace(tzinfo=UTC)
    return Place(tenant_id, "hour" if letter == "h" else "day", start)


def month_of(key: str) -> MonthPlace | None:
    """Return which month a key is about; None for those of hours and days."""
    match = _MONTH_RE.fullmatch(key)
    if match is None:
        return None
    month, tenant_id, by = match.groups()
    first = datetime.strptime(month + "01", "%Y%m%d").date()
    return MonthPlace(tenant_id, first, "agent" if by == "agent" else "channel" if by else None)
