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
3. note for the rollup whose hours and days have changed (`roller.py`), for the recount that the days have
   (`reconcile.py`), and for each source mark those batches of which every tenant was applied;
4. wait until all of it is on disk; only then may the caller acknowledge.

The order is what makes it safe. A mark follows its applications in the append-only file, so no crash leaves a
mark without them; and all of it is on one connection, so that a server which crashed in between and came back
without the writes cannot confirm them. (On a cluster step 2 would wait for its nodes' disks before step 3.)

Both kinds of window live longer than the stream keeps a batch.

Bad rows of a batch are put aside (`dead.py`), and may come back as a batch of their own when a newer version
can read them. They count only where a note says that the batch was applied without them: where it was read
anew meanwhile, since the counters were lost, it was applied as a whole.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from redis.exceptions import ResponseError

from artcafe_common.errors import ServiceError, unavailable
from artcafe_common.ids import new_ulid
from artcafe_metering import durability, keys, metrics, periods
from artcafe_metering.batches import Additions, Batch
from artcafe_metering.commands import Commands
from artcafe_metering.generation import Generation
from artcafe_metering.holes import Holes
from artcafe_metering.stubborn import Stubborn, is_servers_own
from artcafe_metering.valkey import WHAT, Command, Valkey, WriteSession

logger = logging.getLogger(__name__)

# So many go out before their answers are read: little is under way, and Valkey answers others in between.
APPLICATIONS_AT_ONCE = 256
LOOK_SECONDS = 60.0
# So long a batch may be late without others being asked for it, and without the log telling of it.
HOLE_SECONDS = 300.0
TELL_HOLE_SECONDS = 3600.0
# Refused where the server is full, read-only or cannot write to its disk.
_PROBE: Command = ("SET", "ledger:probe", "1", "PX", "60000")


class Ledger:
    """The writing side of the counters."""

    def __init__(
        self,
        valkey: Valkey,
        retention: periods.Retention,
        generation: Generation | None = None,
        *,
        wait_for_disk: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._valkey = valkey
        self._generation = generation
        self._commands = Commands(retention)
        self._wait_for_disk = wait_for_disk
        self._stubborn = Stubborn()
        self._holes = Holes(monotonic)

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
            refused = await self._apply_all(session, batches, floors)
            await self._confirm(session, mode, batches, refused)
        metrics.ROUND_SECONDS.observe(time.perf_counter() - started)
        return [index not in refused for index in range(len(batches))]

    async def look_for_holes(self) -> None:
        """Set the metric of holes, after asking whether other replicas have filled them.

        Raises: ServiceError ``unavailable``.
        """
        if sources := self._holes.older_than(HOLE_SECONDS):
            async with self._prepared() as (session, _):
                answers = await session.send([self._commands.mark(source, 0, ()) for source in sources])
            for source, answer in zip(sources, answers, strict=True):
                if not isinstance(answer, ResponseError):
                    self._holes.seen(source, answer[0])
            for source in self._holes.to_tell(TELL_HOLE_SECONDS):
                logger.warning("usage_batch_not_come", extra={"source": source})
        metrics.FLOOR_LAG.set(self._holes.age())

    async def watch(self) -> None:
        """Look for holes again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look_for_holes()
            except ServiceError as error:
                logger.warning("holes_not_looked_for", extra={"error": str(error)})

    def given_up(self, batch: Batch) -> Mapping[str, str]:
        """Return the tenants, with reasons, for which a batch was refused so often that it is given up.

        None where it may yet be applied, and never for a server that is away, full or otherwise in trouble.
        """
        return self._stubborn.given_up(batch.source, batch.seq)

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
        scripts = (self._commands.apply_script, self._commands.mark_script)
        commands: list[Command] = [
            durability.ASK_MODE,
            ("SCRIPT", "EXISTS", *(script.sha for script in scripts)),
            ("EXISTS", keys.SINCE),
        ]
        mode, known, begun = await session.send(commands)
        if isinstance(known, ResponseError):
            logger.warning("valkey_not_ready", extra={"answer": str(known)})
            raise unavailable(WHAT)
        if not begun and self._generation is not None:
            await self._generation.begin()
        if not all(known):
            await session.send([("SCRIPT", "LOAD", script.text) for script in scripts])
        return durability.mode_of(mode) if self._wait_for_disk else "everysec"

    async def _floors(self, session: WriteSession, batches: Sequence[Batch]) -> dict[str, int]:
        highest: dict[str, int] = {}
        for batch in batches:
            highest[batch.source] = max(batch.seq, highest.get(batch.source, 0))
        answers = await session.send(
            [self._commands.mark(source, seq, ()) for source, seq in highest.items()]
        )
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
    ) -> dict[int, dict[str, str]]:
        """Apply batches; return the places of those that were refused, for which tenants and why."""
        refused: dict[int, dict[str, str]] = {}
        fresh = [False] * len(batches)
        whole = await self._applied_as_a_whole(session, batches)
        parts = [
            (index, tenant_id, additions)
            for index, batch in enumerate(batches)
            if index not in whole
            for tenant_id, additions in batch.tenants.items()
        ]
        for first in range(0, len(parts), APPLICATIONS_AT_ONCE):
            some = parts[first : first + APPLICATIONS_AT_ONCE]
            answers = await session.send(
                [self._applying(batches[part[0]], *part[1:], floors) for part in some]
            )
            for (index, tenant_id, additions), answer in zip(some, answers, strict=True):
                if isinstance(answer, ResponseError):
                    if is_servers_own(answer):
                        raise _refused(answer)
                    refused.setdefault(index, {})[tenant_id] = str(answer)
                elif answer == 1:
                    fresh[index] = True
                    self._stubborn.applied()
                    metrics.MESSAGES.inc(additions.totals[0])
        if refused:
            (answer,) = await session.send([_PROBE])
            if isinstance(answer, ResponseError):
                raise _refused(answer)
        for index, (batch, is_fresh) in enumerate(zip(batches, fresh, strict=True)):
            if reasons := refused.get(index):
                self._stubborn.refused(batch.source, batch.seq, reasons)
                details = {"source": batch.source, "seq": batch.seq, "answer": next(iter(reasons.values()))}
                logger.error("usage_batch_not_applied", extra=details)
            else:
                self._stubborn.done(batch.source, batch.seq)
                metrics.BATCHES.labels("applied" if is_fresh else "repeated").inc()
        return refused

    async def _applied_as_a_whole(self, session: WriteSession, batches: Sequence[Batch]) -> set[int]:
        """Note the batches whose bad rows were put aside; return such rows that were counted after all."""
        returned = [index for index, batch in enumerate(batches) if batch.was_aside]
        commands: list[Command] = [
            self._commands.put_aside(batch.source, batch.seq) for batch in batches if batch.aside is not None
        ]
        commands += [("EXISTS", keys.aside_key(batches[index].source)) for index in returned]
        if not commands:
            return set()
        answers = await session.send(commands)
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise _refused(answer)
        known = answers[len(answers) - len(returned) :]
        return {index for index, noted in zip(returned, known, strict=True) if not noted}

    def _applying(
        self, batch: Batch, tenant_id: str, additions: Additions, floors: dict[str, int]
    ) -> Command:
        floor = floors[batch.source]
        return self._commands.apply(batch.source, batch.seq, batch.hour, tenant_id, additions, floor)

    async def _confirm(
        self,
        session: WriteSession,
        mode: durability.Mode,
        batches: Sequence[Batch],
        refused: Mapping[int, Mapping[str, str]],
    ) -> None:
        seqs: defaultdict[str, list[int]] = defaultdict(list)
        places: defaultdict[datetime, set[str]] = defaultdict(set)
        for index, batch in enumerate(batches):
            without = refused.get(index, {})
            if not without:
                seqs[batch.source].append(batch.seq)
            # Of one that is refused for some tenants the others have their part, perhaps for good.
            places[batch.hour].update(batch.tenants.keys() - without.keys())
        # After they were applied: a rollup that takes a note away has read what it stands for.
        noted = {hour: tenants for hour, tenants in places.items() if tenants}
        commands: list[Command] = [*self._commands.unrolled(noted, new_ulid())]
        commands += [self._commands.mark(source, 0, marked) for source, marked in seqs.items()]
        if self._wait_for_disk:
            commands.append(durability.CONFIRM)
        answers = await session.send(commands)
        confirmation = answers.pop() if self._wait_for_disk else None
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise _refused(answer)
        marks = answers[len(answers) - len(seqs) :]
        for (source, marked), (floor, _) in zip(seqs.items(), marks, strict=True):
            self._holes.seen(source, floor, max(marked))
        if self._wait_for_disk:
            await durability.on_disk(session, mode, confirmation)


def _refused(answer: ResponseError) -> Exception:
    # Out of memory, loading, read-only: the server's own trouble, which passes.
    logger.warning("valkey_refused", extra={"answer": str(answer)})
    return unavailable(WHAT)
