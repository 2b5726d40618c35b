"""Counting: tallies by tenant, agent and channel, for one span of time after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from operator import itemgetter

from artcafe_common import metrics
from artcafe_common.clock import Clock
from artcafe_common.contracts.metering import UsageRow
from artcafe_common.ids import new_ulid
from artcafe_common.usage.counter_file import CounterFile, Key
from artcafe_common.usage.span import Span, cut

logger = logging.getLogger(__name__)

HOUR_SECONDS = 3600
ROWS_MAX = 200_000


class Tally:
    """Running counts of one (tenant, agent, channel); fields as in `UsageRow`.

    `slot` is its place in the counter file, 0 where it has none.
    """

    __slots__ = ("api_calls", "bytes_in", "bytes_out", "connection_seconds", "deliveries", "messages", "slot")

    def __init__(self, slot: int = 0) -> None:
        self.messages = 0
        self.deliveries = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.api_calls = 0
        self.connection_seconds = 0.0
        self.slot = slot


class Meter:
    """Adds up one publisher's messages in one channel within a turn of the event loop.

    Many come in one turn, and counting them together costs a fraction. Add to `messages` and `bytes_in`, and
    with the first call `UsageCounter.at_end_of_turn`. Not for a message whose publisher is told that it was
    accepted: that must be counted first, by `UsageCounter.message`.
    """

    __slots__ = ("accepted_at", "bytes_in", "key", "messages")

    def __init__(self, tenant_id: str, agent_id: str, channel_id: str) -> None:
        self.key: Key = (tenant_id, agent_id, channel_id)
        self.messages = 0
        self.bytes_in = 0
        self.accepted_at = 0.0


class UsageCounter:
    """What this process counts, and what of it was not acknowledged yet: `rows_max` rows at most.

    A row more than that is not counted, and told as lost: what came first is kept. While nothing can be sent
    an hour's rows go on adding up, so that it takes as many as there are agents and channels in use.
    """

    def __init__(self, clock: Clock, file: CounterFile | None = None, *, rows_max: int = ROWS_MAX) -> None:
        self.file = file
        self.source = file.source if file is not None else new_ulid(clock.now())
        self._clock = clock
        self._rows_max = rows_max
        self._tallies: dict[Key, Tally] = {}
        self._next_seq = 1
        # Rows of spans that were closed and not acknowledged.
        self._rows_waiting = 0
        self._lost = Tally()
        # Of the hour that is counted in.
        self._hour_start = self._hour_end = 0.0
        self._start = clock.now()
        self._closed: list[Span] = []
        self._closing = False
        self._before_close: list[Callable[[], None]] = []
        self._save_accepted = file.save_accepted if file is not None else _save_nowhere
        self._save_api_calls = file.save_api_calls if file is not None else _save_nowhere
        self._turn: list[Meter] = []

    def now(self) -> float:
        """Return the time at which something counted now is accepted."""
        return self._clock.now()

    def before_close(self, flush: Callable[[], None]) -> None:
        """Call `flush` before counts are taken, for whoever adds up elsewhere first."""
        self._before_close.append(flush)

    def tally(self, now: float, tenant_id: str, agent_id: str = "", channel_id: str = "") -> Tally:
        """Return the counts to add to for something accepted at `now` (epoch seconds); do not keep it."""
        # What is handed over while an hour is being closed belongs to that hour. The clock may be put back.
        if not self._hour_start <= now < self._hour_end and not self._closing:
            self._start_hour(now)
        key = (tenant_id, agent_id, channel_id)
        tally = self._tallies.get(key)
        return tally if tally is not None else self._add(key)

    def open_tally(self, tenant_id: str, agent_id: str = "", channel_id: str = "") -> Tally:
        """Return the counts of the open span to add to, and leave it open whatever the time is.

        For what is counted in two steps that belong together, so that no hour ends in between.
        """
        # As if at the beginning of its hour; where there is none yet it begins.
        return self.tally(self._hour_start or self._clock.now(), tenant_id, agent_id, channel_id)

    def message(
        self, now: float, tenant_id: str, agent_id: str, channel_id: str, size: int, messages: int = 1
    ) -> None:
        """Count an accepted publish with `size` bytes of data, or several with as many in all."""
        tally = self.tally(now, tenant_id, agent_id, channel_id)
        tally.messages += messages
        tally.bytes_in += size
        if tally.slot:
            self._save_accepted(tally.slot, tally.messages, tally.bytes_in)

    def at_end_of_turn(self, meter: Meter, now: float) -> None:
        """Count what a meter has, from its first message accepted at `now` on, when this turn ends."""
        if not self._hour_start <= now < self._hour_end:
            self._start_hour(now)
        meter.accepted_at = now
        if not self._turn:
            asyncio.get_running_loop().call_soon(self._end_turn)
        self._turn.append(meter)

    def api_call(self, tenant_id: str) -> None:
        """Count one authenticated REST request."""
        tally = self.tally(self._clock.now(), tenant_id)
        tally.api_calls += 1
        if tally.slot:
            self._save_api_calls(tally.slot, tally.api_calls)

    def settle(self) -> None:
        """Have all that was counted elsewhere handed over, and everything stored in the file.

        An hour that has ended is closed first, or what belongs to it would be handed over to the next one.
        """
        self._leave_ended_hour(self._clock.now())
        self._settle()

    def _settle(self) -> None:
        self._end_turn()
        for flush in self._before_close:
            flush()
        if self.file is not None:
            save = self.file.save_rest
            for tally in self._tallies.values():
                if tally.slot:
                    save(tally.slot, tally.deliveries, tally.bytes_out, tally.connection_seconds)
        self._tell_lost()

    def take(self) -> list[Span]:
        """Return the spans that have been closed since the last call; none crosses an hour."""
        now = self._clock.now()
        if not self._leave_ended_hour(now):
            self._close(now)
        return self.take_closed()

    def take_closed(self) -> list[Span]:
        """Return spans that an hour's end has closed, and leave the open one open."""
        taken, self._closed = self._closed, []
        return taken

    def acknowledged(self, span: Span) -> None:
        """Forget a span; those before it were acknowledged, too."""
        self._rows_waiting -= len(span.rows)
        if self.file is not None:
            self.file.release(span.slots, span.next_seq)

    @property
    def fill(self) -> float:
        """How much of the room for rows is in use, from 0 to 1."""
        return (self._rows_waiting + len(self._tallies)) / self._rows_max

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, []
        for meter in turn:
            messages, size = meter.messages, meter.bytes_in
            meter.messages = meter.bytes_in = 0
            self.message(meter.accepted_at, *meter.key, size, messages)

    def _add(self, key: Key) -> Tally:
        if self._rows_waiting + len(self._tallies) >= self._rows_max:
            return self._lost
        slot = self.file.add(self._next_seq, self._start, key) if self.file is not None else 0
        tally = self._tallies[key] = Tally(slot)
        return tally

    def _leave_ended_hour(self, now: float) -> bool:
        """Close the hour that was counted in where `now` lies outside of it; tell whether."""
        has_ended = bool(self._hour_end) and not self._hour_start <= now < self._hour_end
        if has_ended:
            self._start_hour(now)
        return has_ended

    def _start_hour(self, now: float) -> None:
        if self._hour_end:
            self._close(min(now, self._hour_end))
        self._hour_start = now // HOUR_SECONDS * HOUR_SECONDS
        self._hour_end = self._hour_start + HOUR_SECONDS
        # Not before this hour, and where the machine's clock was put back not after it either.
        self._start = max(self._hour_start, min(self._start, now))

    def _close(self, end: float) -> None:
        self._closing = True
        try:
            self._settle()
        finally:
            self._closing = False
        # The machine's clock may have been put back.
        end = max(end, self._start)
        if self._tallies:
            self._closed.append(self._span(end))
            self._tallies = {}
        self._start = end

    def _span(self, end: float) -> Span:
        on_disk: list[tuple[int, UsageRow]] = []
        in_memory: list[UsageRow] = []
        for key, tally in self._tallies.items():
            row = UsageRow(
                *key,
                messages=tally.messages,
                deliveries=tally.deliveries,
                bytes_in=tally.bytes_in,
                bytes_out=tally.bytes_out,
                api_calls=tally.api_calls,
                connection_seconds=round(tally.connection_seconds, 3),
            )
            if tally.slot:
                on_disk.append((tally.slot, row))
            else:
                in_memory.append(row)
        # In the order of the file: see `Span`.
        on_disk.sort(key=itemgetter(0))
        slots = [slot for slot, _ in on_disk]
        chunks = [*cut([row for _, row in on_disk]), *cut(in_memory)]
        span = Span(self.source, self._next_seq, self._start, end, chunks, slots)
        self._next_seq = span.next_seq
        self._rows_waiting += len(self._tallies)
        metrics.USAGE_DURABLE.set(0 if in_memory else 1)
        return span

    def _tell_lost(self) -> None:
        lost = self._lost
        if not (lost.messages or lost.deliveries or lost.api_calls or lost.connection_seconds):
            return
        self._lost = Tally()
        metrics.USAGE_LOST.inc(lost.messages)
        details = {"messages": lost.messages, "deliveries": lost.deliveries, "api_calls": lost.api_calls}
        logger.error("usage_lost", extra={**details, "rows": self._rows_max})


def _save_nowhere(slot: int, *counts: int) -> None:
    """Store nothing: there is no file."""
