"""Apply batches to the counters, each exactly once.

The stream delivers a batch at least once: again after a lost acknowledgement, after `ack_wait`, to another
replica, from the beginning when its consumer was made anew, and in any order, since replicas work side by
side. A single watermark per source would lose batch 5 when 6 was applied first. So what is remembered is
the set of batches that were applied, per tenant and source, as a bitmap: `apply.lua` looks and counts in
one step, which either happened whole or not at all. That alone makes it exact under any order.

The rest keeps the bitmaps short. A tenant's rows are in some batches of a source and not in others, so a
tenant's own bitmap has holes that never close. The batches of a source as a whole have none: `mark.lua` notes
each that was applied for *all* of its tenants, and returns the floor up to which there is no hole. A tenant's
bitmap is cut at the floor. A round therefore is

1. for each source: ask for the floor;
2. for each batch and tenant: apply, given the floor;
3. for each source: mark those batches of which every tenant was applied;
4. wait until all of it is on disk; only then may the caller acknowledge.

The order is what makes it safe. A mark follows its applications in the append-only file, so no crash leaves a
mark without them; and all of it is on one connection, so that a server which crashed in between and came back
without the writes cannot confirm them. (On a cluster step 2 would wait for its nodes' disks before step 3.)

Both kinds of window live longer than the stream keeps a batch.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import resources
from typing import Any

import msgspec
from redis.exceptions import NoScriptError, ResponseError

from artcafe_common.errors import ServiceError, unavailable
from artcafe_metering import durability, keys, metrics, periods
from artcafe_metering.batches import Additions, Batch, broken_down, increments
from artcafe_metering.valkey import WHAT, Command, Valkey, WriteSession

logger = logging.getLogger(__name__)

WINDOW_LIFETIME = timedelta(days=15)
# How far behind the newest batch of its source a batch may come; see mark.lua.
WINDOW_BATCHES = 1 << 20

_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the name by which Valkey has it once it is loaded."""

    text: bytes
    sha: str

    @classmethod
    def read(cls, name: str) -> Script:
        """Read a script of this package."""
        text = resources.files("artcafe_metering").joinpath(name).read_bytes()
        return cls(text, hashlib.sha1(text, usedforsecurity=False).hexdigest())

    def command(self, names: Sequence[str], *arguments: Any) -> Command:
        """Return the call of the script."""
        return ("EVALSHA", self.sha, len(names), *names, *arguments)


class Ledger:
    """The writing side of the counters."""

    def __init__(self, valkey: Valkey, retention: periods.Retention, *, wait_for_disk: bool = True) -> None:
        self._valkey = valkey
        self._retention = retention
        self._wait_for_disk = wait_for_disk
        self._apply = Script.read("apply.lua")
        self._mark = Script.read("mark.lua")
        self._lifetime = int(WINDOW_LIFETIME.total_seconds() * 1000)

    async def ready(self) -> None:
        """Raise ``unavailable`` unless Valkey takes writes and, where that is asked for, keeps them."""
        async with self._prepared() as (session, _):
            if self._wait_for_disk:
                await durability.keeps_a_log(session)

    async def apply(self, batches: Sequence[Batch]) -> list[bool]:
        """Apply a round of batches; True for those which are on disk now, whether applied here or before.

        A batch that alone cannot be applied gives False and does not hold up the others.

        Raises: ServiceError ``unavailable``: some may have been applied, all may be sent again.
        """
        started = time.perf_counter()
        async with self._prepared() as (session, mode):
            floors = await self._floors(session, batches)
            done = await self._apply_all(session, batches, floors)
            await self._confirm(session, mode, [batch for batch, ok in zip(batches, done, strict=True) if ok])
        metrics.ROUND_SECONDS.observe(time.perf_counter() - started)
        return done

    @asynccontextmanager
    async def _prepared(self) -> AsyncIterator[tuple[WriteSession, durability.Mode]]:
        for last in (False, True):
            async with self._valkey.writing() as session:
                try:
                    mode = await self._prepare(session)
                except ServiceError:
                    # Nothing was written yet, and the pooled connection may be to a server of the past.
                    if last:
                        raise
                    continue
                yield session, mode
                return

    async def _prepare(self, session: WriteSession) -> durability.Mode:
        """Make sure that the scripts are there, and learn how the server writes to its disk."""
        commands: list[Command] = [
            durability.ASK_MODE,
            ("SCRIPT", "EXISTS", self._apply.sha, self._mark.sha),
        ]
        mode, known = await session.send(commands)
        if isinstance(known, ResponseError):
            logger.warning("valkey_not_ready", extra={"answer": str(known)})
            raise unavailable(WHAT)
        if not all(known):
            await session.send([("SCRIPT", "LOAD", script.text) for script in (self._apply, self._mark)])
        return durability.mode_of(mode) if self._wait_for_disk else "everysec"

    async def _floors(self, session: WriteSession, batches: Sequence[Batch]) -> dict[str, int]:
        highest: dict[str, int] = {}
        for batch in batches:
            highest[batch.source] = max(batch.seq, highest.get(batch.source, 0))
        answers = await session.send([self._marking(source, seq, ()) for source, seq in highest.items()])
        floors: dict[str, int] = {}
        for source, answer in zip(highest, answers, strict=True):
            if isinstance(answer, ResponseError):
                raise _refused(answer)
            floors[source], gap = answer
            if gap:
                metrics.GAPS.inc(gap)
                logger.error("usage_batches_missing", extra={"source": source, "batches": gap})
        return floors

    async def _apply_all(
        self, session: WriteSession, batches: Sequence[Batch], floors: dict[str, int]
    ) -> list[bool]:
        commands: list[Command] = []
        owners: list[int] = []
        messages: list[int] = []
        for index, batch in enumerate(batches):
            for tenant_id, additions in batch.tenants.items():
                commands.append(self._applying(batch, tenant_id, additions, floors[batch.source]))
                owners.append(index)
                messages.append(additions.totals[0])
        answers = await session.send(commands) if commands else []
        errors: dict[int, ResponseError] = {}
        fresh = [False] * len(batches)
        for place, (index, answer) in enumerate(zip(owners, answers, strict=True)):
            if isinstance(answer, NoScriptError):
                raise _refused(answer)
            if isinstance(answer, ResponseError):
                errors[index] = answer
            elif answer == 1:
                fresh[index] = True
                metrics.MESSAGES.inc(messages[place])
        if errors and len(errors) == len(batches):
            raise _refused(next(iter(errors.values())))
        for index, error in errors.items():
            batch = batches[index]
            logger.error(
                "usage_batch_not_applied",
                extra={"source": batch.source, "seq": batch.seq, "answer": str(error)},
            )
        for index, is_fresh in enumerate(fresh):
            if index not in errors:
                metrics.BATCHES.labels("applied" if is_fresh else "repeated").inc()
        return [index not in errors for index in range(len(batches))]

    async def _confirm(self, session: WriteSession, mode: durability.Mode, batches: Sequence[Batch]) -> None:
        seqs: defaultdict[str, list[int]] = defaultdict(list)
        for batch in batches:
            seqs[batch.source].append(batch.seq)
        commands = [self._marking(source, 0, marked) for source, marked in seqs.items()]
        if self._wait_for_disk:
            commands.append(durability.CONFIRM)
        answers = await session.send(commands)
        confirmation = answers.pop() if self._wait_for_disk else None
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise _refused(answer)
        if self._wait_for_disk:
            await durability.on_disk(session, mode, confirmation)

    def _marking(self, source: str, highest: int, seqs: Sequence[int]) -> Command:
        return self._mark.command([keys.source_key(source)], self._lifetime, WINDOW_BATCHES, highest, *seqs)

    def _applying(self, batch: Batch, tenant_id: str, additions: Additions, floor: int) -> Command:
        hour, day = batch.hour, batch.hour.date()
        in_hour, in_day = keys.hour_key(tenant_id, hour), keys.day_key(tenant_id, day)
        names = [
            keys.applied_key(tenant_id, batch.source),
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
        ]
        added = (
            increments(additions.totals),
            broken_down(additions.agents),
            broken_down(additions.channels),
            additions.active_agents(),
            list(additions.channels),
        )
        return self._apply.command(
            names,
            batch.seq,
            floor,
            self._lifetime,
            periods.hour_expiry(hour, self._retention),
            periods.day_expiry(day, self._retention),
            periods.month_expiry(day, self._retention),
            _pack(added),
        )


def _refused(answer: ResponseError) -> Exception:
    # Out of memory, loading, read-only: the server's own trouble, which passes.
    logger.warning("valkey_refused", extra={"answer": str(answer)})
    return unavailable(WHAT)
