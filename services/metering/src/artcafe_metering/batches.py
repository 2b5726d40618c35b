"""From the bytes of a message to what is added to each tenant's counters. Pure: no store, no bus."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from operator import add
from typing import Annotated

import msgspec

from artcafe_common.ids import is_channel_id, is_token
from artcafe_metering.keys import FIGURES
from artcafe_metering.periods import hour_of

# A sequence is a whole number that Lua's numbers hold exactly.
SEQ_MAX = 2**53 - 1
# Larger than anything one process can count in a second; the sum over all rows stays within 64 bits.
COUNT_MAX = 2**40
PERSON_PREFIX = "user:"
PERSON_MAX_LENGTH = 300
FUTURE_SECONDS_MAX = 3600.0
_REASON_MAX_LENGTH = 200
_NAMES_REMEMBERED = 100_000

Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
Counts = tuple[int, ...]
NOTHING: Counts = (0,) * len(FIGURES)


class CheckedRow(msgspec.Struct, frozen=True, array_like=True):
    """A `UsageRow` as it must be; the decoder checks the numbers."""

    tenant_id: str
    agent_id: str = ""
    channel_id: str = ""
    messages: Count = 0
    deliveries: Count = 0
    bytes_in: Count = 0
    bytes_out: Count = 0
    api_calls: Count = 0
    connection_seconds: Annotated[float, msgspec.Meta(ge=0, le=COUNT_MAX / 1000)] = 0.0


class CheckedBatch(msgspec.Struct, frozen=True):
    """A `UsageBatch` as it must be."""

    source: str
    seq: Annotated[int, msgspec.Meta(ge=1, le=SEQ_MAX)]
    start: float
    end: float
    rows: list[CheckedRow]


_decode = msgspec.json.Decoder(CheckedBatch).decode


class PoisonError(Exception):
    """A message that is no usage batch, and will be none however often it comes."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason[:_REASON_MAX_LENGTH]


@dataclass(slots=True)
class Additions:
    """What one batch adds to one tenant, in the order of `FIGURES`: in all, per agent and per channel."""

    totals: Counts = NOTHING
    agents: dict[str, Counts] = field(default_factory=dict)
    channels: dict[str, Counts] = field(default_factory=dict)

    def add(self, row: CheckedRow) -> None:
        """Add a row."""
        counts: Counts = (
            row.messages,
            row.deliveries,
            row.bytes_in,
            row.bytes_out,
            row.api_calls,
            round(row.connection_seconds * 1000),
        )
        self.totals = tuple(map(add, self.totals, counts))
        if row.agent_id:
            _add(self.agents, row.agent_id, counts)
        if row.channel_id:
            _add(self.channels, row.channel_id, counts)


@dataclass(frozen=True, slots=True)
class Batch:
    """A checked batch: its name, the hour it belongs to, and what it adds to each tenant."""

    source: str
    seq: int
    hour: datetime
    tenants: dict[str, Additions]


def read_batch(subject: str, payload: bytes, oldest: float, now: float) -> Batch:
    """Decode and check a message; `oldest` is the earliest time for which counters are still kept.

    Raises: PoisonError with the reason, which quotes no value of the payload.
    """
    try:
        batch = _decode(payload)
    except msgspec.ValidationError as error:
        raise PoisonError(f"not a usage batch: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise PoisonError("not JSON") from None
    if not is_token(batch.source) or subject.rpartition(".")[2] != batch.source:
        raise PoisonError("the source is not that of the subject")
    if not oldest <= batch.start <= now + FUTURE_SECONDS_MAX:
        raise PoisonError("the time lies outside of what is kept")
    tenants: dict[str, Additions] = {}
    for row in batch.rows:
        if wrong := _wrong_id(row.tenant_id, row.agent_id, row.channel_id):
            raise PoisonError(f"a {wrong} is not valid")
        additions = tenants.get(row.tenant_id)
        if additions is None:
            additions = tenants[row.tenant_id] = Additions()
        additions.add(row)
    return Batch(batch.source, batch.seq, hour_of(batch.start), tenants)


def _add(groups: dict[str, Counts], name: str, counts: Counts) -> None:
    before = groups.get(name)
    groups[name] = counts if before is None else tuple(map(add, before, counts))


# The same names come every second.
@lru_cache(_NAMES_REMEMBERED)
def _wrong_id(tenant_id: str, agent_id: str, channel_id: str) -> str:
    if not is_token(tenant_id):
        return "tenant_id"
    if agent_id and not is_token(agent_id) and not _is_person(agent_id):
        return "agent_id"
    if channel_id and not is_channel_id(channel_id):
        return "channel_id"
    return ""


def _is_person(value: str) -> bool:
    return value.startswith(PERSON_PREFIX) and len(value) <= PERSON_MAX_LENGTH and value.isprintable()
