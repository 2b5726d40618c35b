"""Take batches from the stream, have them applied, and acknowledge those that are on disk.

Many rounds run side by side, since most of a round is waiting for a disk. Nothing is acknowledged that was
not confirmed; whatever else happens, a batch comes again.
"""

from __future__ import annotations

import asyncio
import logging

from nats.aio.msg import Msg
from nats.js import JetStreamContext

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock
from artcafe_common.errors import ServiceError
from artcafe_common.starting import cancel_all
from artcafe_common.streams import USAGE, ensure_stream
from artcafe_metering import metrics
from artcafe_metering.backlog import Backlog
from artcafe_metering.batches import Batch, PoisonError, only_tenants, read_batch
from artcafe_metering.dead import DeadLetters
from artcafe_metering.ledger import Ledger
from artcafe_metering.pull import Pull
from artcafe_metering.streams import CONSUMER, USAGE_DEAD

logger = logging.getLogger(__name__)

ROUND_BATCHES = 256
ROUND_BYTES = 4 * 1024 * 1024
# A round begins so long after its first batch came, with all that came meanwhile. It waits for the disk for
# up to a second and more; so many rounds as fit into that time must be allowed side by side, or batches
# would wait.
GATHER_SECONDS = 0.1
QUEUE_BATCHES = 1024
RETRY_SECONDS = 1.0
RETRY_ONE_SECONDS = 30.0
PAUSE_SECONDS = 0.25
PAUSE_SECONDS_MAX = 5.0
FINISH_SECONDS = 8.0
DEAD_TIMEOUT_SECONDS = 5.0
_DAY_SECONDS = 86_400

_ACK = b"+ACK"
_TERM = b"+TERM"


class Intake:
    """The consuming side of metering in one process."""

    def __init__(
        self,
        bus: Bus,
        ledger: Ledger,
        clock: Clock,
        hours_kept_days: int,
        rounds: int,
        stream_replicas: int = 1,
    ) -> None:
        self._bus = bus
        self._jetstream: JetStreamContext = bus.jetstream(timeout=DEAD_TIMEOUT_SECONDS)
        self._backlog = Backlog(self._jetstream, clock)
        self._dead = DeadLetters(self._jetstream)
        self._ledger = ledger
        self._clock = clock
        self._oldest_seconds = open_seconds(hours_kept_days)
        self._rounds = rounds
        self._stream_replicas = stream_replicas
        self._taking = asyncio.Lock()
        assert USAGE.name is not None and CONSUMER.durable_name is not None
        self._pull = Pull(bus, USAGE.name, CONSUMER.durable_name, self._prepare, QUEUE_BATCHES)

    @property
    def healthy(self) -> bool:
        """Whether batches are being received."""
        return self._pull.healthy

    async def backlog(self) -> int:
        """Return how many batches no replica has taken yet. Raises: ServiceError ``unavailable``."""
        return await self._backlog.undelivered()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish the rounds that have begun and give the rest back."""
        pulling = asyncio.create_task(self._pull.run())
        looking = asyncio.create_task(self._backlog.run())
        workers = [asyncio.create_task(self._work(stop)) for _ in range(self._rounds)]
        try:
            stopping = asyncio.create_task(stop.wait())
            done, _ = await asyncio.wait(
                [stopping, pulling, looking, *workers], return_when=asyncio.FIRST_COMPLETED
            )
            if stopping not in done:
                stopping.cancel()
                # None of them ends by itself: it is a bug, and the process must not stay behind without them.
                for task in done:
                    task.result()
        finally:
            await cancel_all([pulling, looking])
            for message in self._pull.leave():
                self._answer(message, _nak(0))
            _, unfinished = await asyncio.wait(workers, timeout=FINISH_SECONDS)
            await cancel_all(unfinished)

    async def _prepare(self) -> None:
        assert USAGE.name is not None
        for stream in (USAGE, USAGE_DEAD):
            await ensure_stream(self._jetstream, stream, self._stream_replicas)
        await self._jetstream.add_consumer(USAGE.name, CONSUMER)

    async def _work(self, stop: asyncio.Event) -> None:
        while messages := await self._take(stop):
            try:
                await self._round(messages)
            except Exception as error:
                if not isinstance(error, ServiceError):
                    logger.exception("round_failed")
                metrics.BATCHES.labels("retried").inc(len(messages))
                for message in messages:
                    # To one that was put aside meanwhile this says nothing any more.
                    self._answer(message, _nak(RETRY_SECONDS))
                await self._until_ready(stop)

    async def _round(self, messages: list[Msg]) -> None:
        batches = [await self._read(message) for message in messages]
        known = [(m, b) for m, b in zip(messages, batches, strict=True) if b is not None]
        if known:
            done = await self._ledger.apply([batch for _, batch in known])
            for (message, batch), on_disk in zip(known, done, strict=True):
                self._answer(message, _ACK if on_disk else await self._not_applied(message, batch))
        metrics.BACKLOG.set(messages[-1].metadata.num_pending)

    async def _not_applied(self, message: Msg, batch: Batch) -> bytes:
        """Return what the stream is told of a batch that alone was refused."""
        if given_up := self._ledger.given_up(batch):
            rows = only_tenants(message.data, given_up)
            reason = f"not applied: {next(iter(given_up.values()))}"
            if await self._dead.bury(message, rows, message.subject, reason):
                return _TERM
        metrics.BATCHES.labels("retried").inc()
        return _nak(RETRY_ONE_SECONDS)

    async def _take(self, stop: asyncio.Event) -> list[Msg]:
        """Return the next messages; none when it is time to stop."""
        async with self._taking:
            coming = asyncio.create_task(self._pull.wait())
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait([coming, stopping], return_when=asyncio.FIRST_COMPLETED)
                if not stop.is_set() and len(self._pull) < ROUND_BATCHES:
                    await asyncio.sleep(GATHER_SECONDS)
            finally:
                coming.cancel()
                stopping.cancel()
            return [] if stop.is_set() else self._pull.take(ROUND_BATCHES, ROUND_BYTES)

    async def _until_ready(self, stop: asyncio.Event) -> None:
        pause = PAUSE_SECONDS
        while not stop.is_set():
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)
            try:
                await self._ledger.ready()
                return
            except ServiceError:
                continue

    async def _read(self, message: Msg) -> Batch | None:
        """Return what can be counted of a message; what cannot is put aside before that is acknowledged."""
        oldest = self._clock.now() - self._oldest_seconds
        stored = message.metadata.timestamp.timestamp()
        try:
            batch = read_batch(message.subject, message.data, oldest, stored)
        except PoisonError as poison:
            buried = await self._dead.bury(message, message.data, message.subject, poison.reason)
            self._answer(message, _TERM if buried else _nak(RETRY_SECONDS))
            return None
        aside = batch.aside
        if aside and not await self._dead.bury(message, aside.payload, aside.subject, aside.reason):
            self._answer(message, _nak(RETRY_SECONDS))
            return None
        return batch

    def _answer(self, message: Msg, answer: bytes) -> None:
        try:
            self._bus.publish_nowait(message.reply, answer)
        except ServiceError:
            # Not heard, it comes again and is recognised.
            logger.debug("acknowledgement_not_sent")


def open_seconds(hours_kept_days: int) -> int:
    """Return for how long an hour takes batches: one that is about to expire in Valkey takes no more."""
    return (hours_kept_days - 1) * _DAY_SECONDS


def _nak(seconds: float) -> bytes:
    return b'-NAK {"delay": %d}' % int(seconds * 1_000_000_000)
