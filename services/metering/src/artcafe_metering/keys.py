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

The figures are `messages`, `deliveries`, `bytes_in`, `bytes_out`, `api_calls` and `connection_ms`: fields of
the first three, and packed as doubles in this order (`PACKED`) in the hashes that have a field for each id. A
key of a period expires its time of retention after the end of the period, and has that expiry from its first
write; the last two live 15 days from the last write, twice as long as the stream keeps a batch.
"""

from __future__ import annotations

from datetime import date, datetime
from struct import Struct
from typing import Literal

Breakdown = Literal["agent", "channel"]

FIGURES = ("messages", "deliveries", "bytes_in", "bytes_out", "api_calls", "connection_ms")
# One value for an id instead of six fields: a fifth of the memory and of the commands.
PACKED = Struct(f"<{len(FIGURES)}d")


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


def applied_key(tenant_id: str, source: str) -> str:
    """Return the key that tells which batches of a source were applied for a tenant."""
    return f"applied:{{{tenant_id}}}:{source}"


def source_key(source: str) -> str:
    """Return the key that tells which batches of a source were applied for every tenant."""
    return f"sources:{{{source}}}"
