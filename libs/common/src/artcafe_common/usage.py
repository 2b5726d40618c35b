"""The publishing side of metering: count in memory, send one batch per second, send again until acknowledged.

A batch is named by (source, seq) for ever, so metering can tell a repetition from a new one. Rows belong to
the hour in which their messages were accepted: the counter closes a batch when an hour ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable

import msgspec
from nats.errors import Error as NatsError

from artcafe_common import metrics
from artcafe_common.bus import Bus
from artcafe_common.clock import Clock
from artcafe_common.contracts.metering import USAGE_BATCH, UsageBatch, UsageRow
from artcafe_common.ids import new_ulid
from artcafe_common.log import Repeats
from artcafe_common.streams import USAGE, ensure_stream

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
ACKNOWLEDGE_TIMEOUT_SECONDS = 2.0
ROWS_PER_BATCH = 5_000
BATCH_BYTES_MAX = 512 * 1024
PENDING_BYTES_MAX = 64 * 1024 * 1024
HOUR_SECONDS = 3600

_encode = msgspec.json.Encoder().encode


class Tally:
    """Running counts of one (tenant, agent, channel); fields as in `UsageRow`."""

    __slots__ = ("api_calls", "bytes_in", "bytes_out", "connection_seconds", "deliveries", "messages")

    def __init__(self) -> None:
        self.messages = 0
        self.deliveries = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.api_calls = 0
        self.connection_seconds = 0.0


class UsageCounter:
    """Counts of this process since the last batch."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tallies: dict[tuple[str, str, str], Tally] = {}
        self._hour_end = 0.0
        self._start = clock.now()
        self._closed: list[tuple[float, float, list[UsageRow]]] = []
        self._closing = False
        self._before_close: list[Callable[[], None]] = []

    def now(self) -> float:
        """Return the time at which something counted now is accepted."""
        return self._clock.now()

    def before_close(self, flush: Callable[[], None]) -> None:
        """Call `flush` before counts are taken, for whoever adds up elsewhere first."""
        self._before_close.append(flush)

    def tally(self, now: float, tenant_id: str, agent_id: str = "", channel_id: str = "") -> Tally:
        """Return the counts to add to for something accepted at `now` (epoch seconds)."""
        # What is handed over while an hour is being closed belongs to that hour.
        if now >= self._hour_end and not self._closing:
            self._start_hour(now)
        key = (tenant_id, agent_id, channel_id)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally()
        return tally

    def message(self, now: float, tenant_id: str, agent_id: str, channel_id: str, size: int) -> None:
        """Count one accepted publish with `size` bytes of data."""
        tally = self.tally(now, tenant_id, agent_id, channel_id)
        tally.messages += 1
        tally.bytes_in += size

    def api_call(self, tenant_id: str) -> None:
        """Count one authenticated REST request."""
        self.tally(self._clock.now(), tenant_id).api_calls += 1

    def take(self) -> Iterable[tuple[float, float, list[UsageRow]]]:
        """Return (start, end, rows) of what was counted since the last call; no span crosses an hour."""
        now = self._clock.now()
        if self._hour_end and now >= self._hour_end:
            self._start_hour(now)
        else:
            self._close(now)
        taken, self._closed = self._closed, []
        return taken

    def _start_hour(self, now: float) -> None:
        if self._hour_end:
            self._close(self._hour_end)
        self._hour_end = (now // HOUR_SECONDS + 1) * HOUR_SECONDS
        self._start = max(self._start, self._hour_end - HOUR_SECONDS)

    def _close(self, end: float) -> None:
        self._closing = True
        try:
            for flush in self._before_close:
                flush()
        finally:
            self._closing = False
        # The machine's clock may have been put back.
        end = max(end, self._start)
        if self._tallies:
            rows = [
                UsageRow(
                    *key,
                    messages=tally.messages,
                    deliveries=tally.deliveries,
                    bytes_in=tally.bytes_in,
                    bytes_out=tally.bytes_out,
                    api_calls=tally.api_calls,
                    connection_seconds=round(tally.connection_seconds, 3),
                )
                for key, tally in self._tallies.items()
            ]
            self._tallies = {}
            self._closed.append((self._start, end, rows))
        self._start = end


class UsageReporter:
    """Sends what a counter holds to the stream USAGE, as one source."""

    def __init__(self, bus: Bus, counter: UsageCounter) -> None:
        self._bus = bus
        self._jetstream = bus.jetstream(timeout=ACKNOWLEDGE_TIMEOUT_SECONDS)
        self._counter = counter
        self.source = new_ulid()
        self._seq = 0
        self._pending: deque[tuple[int, bytes]] = deque()
        self._pending_bytes = 0
        self._repeats = Repeats()

    async def run(self) -> None:
        """Send a batch every second until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            self._collect()
            await self._send()

    async def finish(self, timeout: float) -> None:
        """Send the last batch; at most `timeout` seconds."""
        self._collect()
        try:
            async with asyncio.timeout(timeout):
                while self._pending:
                    if not await self._send():
                        await asyncio.sleep(0.1)
        except TimeoutError:
            logger.error("usage_not_delivered", extra={"batches": len(self._pending)})

    def _collect(self) -> None:
        for start, end, rows in self._counter.take():
            for first in range(0, len(rows), ROWS_PER_BATCH):
                self._append(start, end, rows[first : first + ROWS_PER_BATCH])
        while self._pending_bytes > PENDING_BYTES_MAX:
            seq, payload = self._pending.popleft()
            self._pending_bytes -= len(payload)
            metrics.USAGE_BATCHES.labels("lost").inc()
            logger.error("usage_batch_lost", extra={"source": self.source, "seq": seq})
        metrics.USAGE_PENDING.set(len(self._pending))

    def _append(self, start: float, end: float, rows: list[UsageRow]) -> None:
        batch = UsageBatch(source=self.source, seq=self._seq + 1, start=start, end=end, rows=rows)
        payload = _encode(batch)
        if len(payload) > BATCH_BYTES_MAX and len(rows) > 1:
            # Ids may be long: one that NATS refuses would hold up all that come after it.
            middle = len(rows) // 2
            self._append(start, end, rows[:middle])
            self._append(start, end, rows[middle:])
            return
        self._seq += 1
        self._pending.append((self._seq, payload))
        self._pending_bytes += len(payload)

    async def _send(self) -> bool:
        subject = USAGE_BATCH.subject(source=self.source)
        while self._pending:
            if not self._bus.is_connected:
                return False
            seq, payload = self._pending[0]
            try:
                headers = {"Nats-Msg-Id": f"{self.source}:{seq}"}
                await self._jetstream.publish(subject, payload, headers=headers)
            except (NatsError, TimeoutError) as error:
                # Without its stream a batch has nowhere to wait; whoever comes first creates it.
                held_back = self._repeats.due(type(error).__name__)
                if held_back is not None:
                    details = {"error": type(error).__name__, "held_back": held_back}
                    logger.warning("usage_not_acknowledged", extra=details)
                metrics.USAGE_BATCHES.labels("retried").inc()
                return False
            self._pending.popleft()
            self._pending_bytes -= len(payload)
            metrics.USAGE_BATCHES.labels("acknowledged").inc()
            metrics.USAGE_PENDING.set(len(self._pending))
        return True


async def ensure_usage_stream(bus: Bus) -> None:
    """Create the stream USAGE where it is missing."""
    await ensure_stream(bus.jetstream(), USAGE)
