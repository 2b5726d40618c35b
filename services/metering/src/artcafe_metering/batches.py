"""From the bytes of a message to what is added to each tenant's counters. Pure: no store, no bus."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
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
_ASIDE = "-aside"
_SOURCE_MAX_LENGTH = 64
_NAMES_REMEMBERED = 100_000

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

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


class LooseBatch(msgspec.Struct, frozen=True):
    """A `UsageBatch` whose rows are still to be looked at, each by itself."""

    source: str
    seq: Annotated[int, msgspec.Meta(ge=1, le=SEQ_MAX)]
    start: float
    end: float
    rows: list[msgspec.Raw]


_decode = msgspec.json.Decoder(CheckedBatch).decode
_decode_loosely = msgspec.json.Decoder(LooseBatch).decode
_decode_row = msgspec.json.Decoder(CheckedRow).decode
_decode_values = msgspec.json.Decoder(list[object]).decode


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
class Aside:
    """What is bad of a batch: a batch of its own, under its own subject, and why."""

    subject: str
    payload: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A checked batch: its name, the hour it belongs to, what it adds to each tenant, and what is bad of it.

    A tenant that has bad rows is among the tenants, if need be with nothing to add: that it had its part of
    the batch is to be known when all of its rows can be read some day.
    """

    source: str
    seq: int
    hour: datetime
    tenants: dict[str, Additions]
    aside: Aside | None = None

    @property
    def was_aside(self) -> bool:
        """Whether it is what was bad of another one."""
        return self.source.endswith(_ASIDE)


def read_batch(subject: str, payload: bytes, oldest: float, stored: float) -> Batch:
    """Decode and check a message; `oldest` is the earliest time for which counters are still kept.

    `stored` is when the stream took it: so it is judged alike whenever it is read.

    Raises: PoisonError with the reason, which quotes no value of the payload, where nothing of it is good.
    """
    batch = _decoded(payload)
    if not is_token(batch.source) or subject.rpartition(".")[2] != batch.source:
        raise PoisonError("the source is not that of the subject")
    if not oldest <= batch.start <= stored + FUTURE_SECONDS_MAX:
        raise PoisonError("the time lies outside of what is kept")
    aside = None
    if (tenants := _added_up(batch)) is None:
        loose = batch if isinstance(batch, LooseBatch) else _decode_loosely(payload)
        tenants, aside = _sorted_out(subject, loose)
    return Batch(batch.source, batch.seq, hour_of(batch.start), tenants, aside)


def aside_name(source: str, seq: int) -> str:
    """Return the source under which what is bad of a batch is a batch; its sequence is 1."""
    name = f"{source}-{seq}{_ASIDE}"
    if len(name) <= _SOURCE_MAX_LENGTH:
        return name
    return hashlib.sha256(name.encode()).hexdigest()[: _SOURCE_MAX_LENGTH - len(_ASIDE)] + _ASIDE


def only_tenants(payload: bytes, tenants: Collection[str]) -> bytes:
    """Return a batch that can be read with the rows of some tenants only; bad ones are put aside already."""
    batch = _decode_loosely(payload)
    rows = [raw for raw in batch.rows if _tenant_of(raw) in tenants and not isinstance(_read_row(raw), str)]
    return msgspec.json.encode(msgspec.structs.replace(batch, rows=rows))


def _decoded(payload: bytes) -> CheckedBatch | LooseBatch:
    """Return the batch with its rows, or with some that are none. Raises: PoisonError."""
    try:
        try:
            return _decode(payload)
        except msgspec.ValidationError:
            return _decode_loosely(payload)
    except msgspec.ValidationError as error:
        raise PoisonError(f"not a usage batch: {error}") from None
    except _UNREADABLE:
        raise PoisonError("not JSON") from None


def _added_up(batch: CheckedBatch | LooseBatch) -> dict[str, Additions] | None:
    """Return what is added to each tenant; None where not every row is good."""
    if isinstance(batch, LooseBatch):
        return None
    tenants: dict[str, Additions] = {}
    for row in batch.rows:
        if _wrong_id(row.tenant_id, row.agent_id, row.channel_id):
            return None
        additions = tenants.get(row.tenant_id)
        if additions is None:
            additions = tenants[row.tenant_id] = Additions()
        additions.add(row)
    return tenants


def _sorted_out(subject: str, batch: LooseBatch) -> tuple[dict[str, Additions], Aside]:
    """Return what the good rows add, and the bad ones. Raises: PoisonError where there are no good ones."""
    tenants: dict[str, Additions] = {}
    bad: list[msgspec.Raw] = []
    reason = ""
    for raw in batch.rows:
        row = _read_row(raw)
        if isinstance(row, str):
            bad.append(raw)
            reason = reason or row
        else:
            tenants.setdefault(row.tenant_id, Additions()).add(row)
    if len(bad) == len(batch.rows):
        raise PoisonError(reason)
    for raw in bad:
        tenant_id = _tenant_of(raw)
        if is_token(tenant_id):
            tenants.setdefault(tenant_id, Additions())
    name = aside_name(batch.source, batch.seq)
    payload = msgspec.json.encode(msgspec.structs.replace(batch, source=name, seq=1, rows=bad))
    prefix = subject.rpartition(".")[0]
    return tenants, Aside(f"{prefix}.{name}", payload, f"{len(bad)} of {len(batch.rows)} rows: {reason}")


def _read_row(raw: msgspec.Raw) -> CheckedRow | str:
    """Return a row that is good, or what is wrong with it."""
    try:
        row = _decode_row(raw)
    except msgspec.ValidationError as error:
        return f"not a row: {error}"
    except _UNREADABLE:
        return "not JSON"
    return _wrong_id(row.tenant_id, row.agent_id, row.channel_id) or row


def _tenant_of(raw: msgspec.Raw) -> str:
    try:
        values = _decode_values(raw)
    except _UNREADABLE:
        return ""
    return values[0] if values and isinstance(values[0], str) else ""


def _add(groups: dict[str, Counts], name: str, counts: Counts) -> None:
    before = groups.get(name)
    groups[name] = counts if before is None else tuple(map(add, before, counts))


# The same names come every second.
@lru_cache(_NAMES_REMEMBERED)
def _wrong_id(tenant_id: str, agent_id: str, channel_id: str) -> str:
    if not is_token(tenant_id):
        return "a tenant_id is not valid"
    if agent_id and not is_token(agent_id) and not _is_person(agent_id):
        return "an agent_id is not valid"
    if channel_id and not is_channel_id(channel_id):
        return "a channel_id is not valid"
    return ""


def _is_person(value: str) -> bool:
    return value.startswith(PERSON_PREFIX) and len(value) <= PERSON_MAX_LENGTH and value.isprintable()
