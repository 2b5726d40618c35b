"""From the bytes of a message to what is added to each tenant's counters. Pure: no store, no bus."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from artcafe_common.contracts.metering import UsageBatch, UsageRow
from artcafe_common.ids import is_channel_id, is_token
from artcafe_metering.keys import FIGURES, SEPARATOR
from artcafe_metering.periods import hour_of

# A sequence is a whole number that Lua's numbers hold exactly.
SEQ_MAX = 2**53 - 1
# Larger than anything one process can count in a second; the sum over all rows stays within 64 bits.
COUNT_MAX = 2**40
PERSON_PREFIX = "user:"
PERSON_MAX_LENGTH = 300
FUTURE_SECONDS_MAX = 3600.0

_decode = msgspec.json.Decoder(UsageBatch).decode


class PoisonError(Exception):
    """A message that is no usage batch, and will be none however often it comes."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Additions:
    """What one batch adds to one tenant, in the order of `FIGURES`: in all, per agent and per channel."""

    totals: list[int] = field(default_factory=lambda: [0] * len(FIGURES))
    agents: dict[str, list[int]] = field(default_factory=dict)
    channels: dict[str, list[int]] = field(default_factory=dict)

    def add(self, row: UsageRow) -> None:
        """Add a row."""
        counts = (
            row.messages,
            row.deliveries,
            row.bytes_in,
            row.bytes_out,
            row.api_calls,
            round(row.connection_seconds * 1000),
        )
        places = [self.totals]
        if row.agent_id:
            places.append(self.agents.setdefault(row.agent_id, [0] * len(FIGURES)))
        if row.channel_id:
            places.append(self.channels.setdefault(row.channel_id, [0] * len(FIGURES)))
        for place in places:
            for index, count in enumerate(counts):
                place[index] += count

    def active_agents(self) -> list[str]:
        """Return the ids that count as active agents: people who write from a dashboard are none."""
        return [agent_id for agent_id in self.agents if not agent_id.startswith(PERSON_PREFIX)]


@dataclass(frozen=True, slots=True)
class Batch:
    """A checked batch: its name, the hour it belongs to, and what it adds to each tenant."""

    source: str
    seq: int
    hour: datetime
    tenants: dict[str, Additions]


def read_batch(subject: str, payload: bytes, oldest: float, now: float) -> Batch:
    """Decode and check a message; `oldest` is the earliest time for which counters are still kept.

    Raises: PoisonError with the reason, which quotes nothing of the payload.
    """
    try:
        batch = _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise PoisonError("not a usage batch") from None
    if not is_token(batch.source) or subject.rpartition(".")[2] != batch.source:
        raise PoisonError("the source is not that of the subject")
    if not 0 < batch.seq <= SEQ_MAX:
        raise PoisonError("the sequence is out of range")
    if not oldest <= batch.start <= now + FUTURE_SECONDS_MAX:
        raise PoisonError("the time lies outside of what is kept")
    tenants: defaultdict[str, Additions] = defaultdict(Additions)
    for row in batch.rows:
        _check(row)
        tenants[row.tenant_id].add(row)
    return Batch(batch.source, batch.seq, hour_of(batch.start), dict(tenants))


def increments(figures: list[int], prefix: str = "") -> list[str]:
    """Return figures as `field, increment, field, increment ...`, without the zeros."""
    parts: list[str] = []
    for name, count in zip(FIGURES, figures, strict=True):
        if count:
            parts += (prefix + name, str(count))
    return parts


def broken_down(groups: dict[str, list[int]]) -> list[str]:
    """Return the figures of each id as `<id>|<figure>, increment ...`."""
    parts: list[str] = []
    for name, figures in groups.items():
        parts += increments(figures, name + SEPARATOR)
    return parts


def _check(row: UsageRow) -> None:
    if not is_token(row.tenant_id):
        raise PoisonError("a tenant_id is not valid")
    if row.agent_id and not is_token(row.agent_id) and not _is_person(row.agent_id):
        raise PoisonError("an agent_id is not valid")
    if row.channel_id and not is_channel_id(row.channel_id):
        raise PoisonError("a channel_id is not valid")
    counts = (row.messages, row.deliveries, row.bytes_in, row.bytes_out, row.api_calls)
    if min(counts) < 0 or max(counts) > COUNT_MAX or not 0 <= row.connection_seconds <= COUNT_MAX / 1000:
        raise PoisonError("a count is out of range")


def _is_person(value: str) -> bool:
    return value.startswith(PERSON_PREFIX) and len(value) <= PERSON_MAX_LENGTH and value.isprintable()
