"""The commands of a round, as Valkey reads them: which script, which keys, which arguments. Pure.

A round has a command for each tenant of each batch, so these are put together in the wire's own form (RESP),
and what is the same from one second to the next is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from importlib import resources

import msgspec

from artcafe_metering import keys, periods
from artcafe_metering.batches import Additions, Counts, aside_name

WINDOW_LIFETIME = timedelta(days=15)
# Longer than USAGE_DEAD keeps what was put aside.
ASIDE_LIFETIME = timedelta(days=45)
# How far behind the newest batch of its source a batch may come; see mark.lua.
WINDOW_BATCHES = 1 << 20
_LIFETIME_MS = int(WINDOW_LIFETIME.total_seconds() * 1000)
_TENANTS_REMEMBERED = 20_000
_HOURS_REMEMBERED = 64

_pack = msgspec.msgpack.Encoder().encode


class Script:
    """A Lua script of this package, and the name by which Valkey has it once it is loaded."""

    def __init__(self, name: str, keys: int) -> None:
        self.text = resources.files("artcafe_metering").joinpath(name).read_bytes()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()
        self._head = b"".join(map(bulk, (b"EVALSHA", self.sha.encode(), b"%d" % keys)))

    def call(self, parts: int, rest: bytes) -> bytes:
        """Return the command that calls it, with so many keys and arguments, which are encoded already."""
        return b"*%d\r\n%b%b" % (parts + 3, self._head, rest)


APPLY_KEYS, APPLY_ARGUMENTS = 12, 9


class Commands:
    """Makes the commands of a round."""

    def __init__(self, retention: periods.Retention) -> None:
        self.apply_script = Script("apply.lua", APPLY_KEYS)
        self.mark_script = Script("mark.lua", 1)
        self._retention = retention
        self._expiries = lru_cache(_HOURS_REMEMBERED)(self._expiries_of)

    def apply(
        self, source: str, seq: int, hour: datetime, tenant_id: str, additions: Additions, floor: int
    ) -> bytes:
        """Return the command that applies a batch to a tenant."""
        added = (_increments(additions.totals), list(additions.agents), list(additions.channels))
        rest = (
            bulk(keys.applied_key(tenant_id, source).encode()),
            _counter_keys(tenant_id, hour),
            bulk(b"%d" % seq),
            bulk(b"%d" % floor),
            self._expiries(hour),
            bulk(_pack(added)),
            bulk(_packed(additions.agents.values())),
            bulk(_packed(additions.channels.values())),
        )
        return self.apply_script.call(APPLY_KEYS + APPLY_ARGUMENTS, b"".join(rest))

    def put_aside(self, source: str, seq: int) -> bytes:
        """Return the command that notes that the bad rows of a batch are not among what is applied of it."""
        lifetime = str(int(ASIDE_LIFETIME.total_seconds()))
        return _command("SET", keys.aside_key(aside_name(source, seq)), "1", "EX", lifetime)

    def mark(self, source: str, highest: int, seqs: Sequence[int]) -> bytes:
        """Return the command that notes applied batches of a source and answers with its floor."""
        arguments = (_LIFETIME_MS, WINDOW_BATCHES, highest, *seqs)
        rest = [bulk(keys.source_key(source).encode()), *(bulk(b"%d" % number) for number in arguments)]
        return self.mark_script.call(len(rest), b"".join(rest))

    def unrolled(self, places: Mapping[datetime, Iterable[str]], stamp: str) -> list[bytes]:
        """Return the commands that note of which tenants the hours, and their days, have to be rolled up.

        The stamp is a new one for each round: who has rolled up takes the note away unless it was renewed,
        and who has recounted a day does so again when its stamp has changed.
        """
        days: dict[datetime, set[str]] = {}
        commands: list[bytes] = []
        for hour, tenants in places.items():
            days.setdefault(periods.midnight(hour.date()), set()).update(tenants)
            expiry = periods.hour_expiry(hour, self._retention)
            commands += _note(keys.unrolled_key("hour", hour), tenants, stamp, expiry)
        for day, tenants in days.items():
            expiry = periods.day_expiry(day.date(), self._retention)
            commands += _note(keys.unrolled_key("day", day), tenants, stamp, expiry)
            commands.append(_command("SET", keys.changed_key(day.date()), stamp, "EXAT", str(expiry)))
        return commands

    def _expiries_of(self, hour: datetime) -> bytes:
        numbers = (
            _LIFETIME_MS,
            periods.hour_expiry(hour, self._retention),
            periods.day_expiry(hour.date(), self._retention),
            periods.month_expiry(hour.date(), self._retention),
        )
        return b"".join([bulk(b"%d" % number) for number in numbers])


def bulk(value: bytes) -> bytes:
    """Return a value as RESP's bulk string."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


@lru_cache(_TENANTS_REMEMBERED)
def _counter_keys(tenant_id: str, hour: datetime) -> bytes:
    day = hour.date()
    in_hour, in_day = keys.hour_key(tenant_id, hour), keys.day_key(tenant_id, day)
    names = (
        in_hour,
        in_day,
        keys.month_key(tenant_id, day),
        keys.breakdown_key(in_hour, "agent"),
        keys.breakdown_key(in_hour, "channel"),
        keys.breakdown_key(in_day, "agent"),
        keys.breakdown_key(in_day, "channel"),
        keys.active_day_key(tenant_id, day, "agent"),
        keys.active_day_key(tenant_id, day, "channel"),
        keys.active_month_key(tenant_id, day, "agent"),
        keys.active_month_key(tenant_id, day, "channel"),
    )
    return b"".join([bulk(name.encode()) for name in names])


def _note(key: str, tenants: Iterable[str], stamp: str, expiry: int) -> list[bytes]:
    fields = [part for tenant_id in sorted(tenants) for part in (tenant_id, stamp)]
    return [_command("HSET", key, *fields), _command("EXPIREAT", key, str(expiry))]


def _command(*words: str) -> bytes:
    return b"*%d\r\n%b" % (len(words), b"".join([bulk(word.encode()) for word in words]))


def _increments(counts: Counts) -> list[str]:
    """Return `field, increment, field, increment ...` without the zeros."""
    increments: list[str] = []
    for name, count in zip(keys.FIGURES, counts, strict=True):
        if count:
            increments += (name, str(count))
    return increments


def _packed(groups: Iterable[Counts]) -> bytes:
    return b"".join([keys.PACKED.pack(*counts) for counts in groups])
