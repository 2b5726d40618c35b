"""Sending: again and again what was counted, and what others have left behind."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from pathlib import Path

import msgspec
from nats.errors import Error as NatsError
from nats.js.errors import NoStreamResponseError

from artcafe_common import metrics
from artcafe_common.bus import Bus
from artcafe_common.contracts.metering import USAGE_BATCH, UsageBatch
from artcafe_common.log import Repeats
from artcafe_common.usage.counter import UsageCounter
from artcafe_common.usage.leftovers import claim
from artcafe_common.usage.span import Span

logger = logging.getLogger(__name__)

# Usage is shown less than a second after it was counted: that is also the time to have a batch stored, for
# metering to gather those of others (0.1 s) and count them, and for servers that are busy.
INTERVAL_SECONDS = 0.75
ACKNOWLEDGE_TIMEOUT_SECONDS = 2.0
LEFTOVERS_SECONDS = 5.0
FINISH_PAUSE_SECONDS = 0.1
NEARLY_FULL = 0.8

_encode = msgspec.json.Encoder().encode


class UsageReporter:
    """Sends what a counter holds to the stream USAGE, as one source.

    A span is closed when all before it was acknowledged, or its hour ends. So little is on its way at once,
    and while NATS is away counts go on adding up.
    """

    def __init__(self, bus: Bus, counter: UsageCounter) -> None:
        self._bus = bus
        self._jetstream = bus.jetstream(timeout=ACKNOWLEDGE_TIMEOUT_SECONDS)
        self._counter = counter
        self._waiting: deque[Span] = deque()
        self._useless: set[Path] = set()
        self._repeats = Repeats()
        self._filling = Repeats(60.0)

    @property
    def source(self) -> str:
        """The name under which batches are sent."""
        return self._counter.source

    async def run(self) -> None:
        """Send a batch at each interval, and what is left of processes that have ended, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_own())
            if self._counter.file is not None:
                group.create_task(self._run_leftovers())

    async def finish(self, timeout: float) -> None:
        """Send the last batch; at most `timeout` seconds. Without NATS the counter file keeps it."""
        self._waiting.extend(self._counter.take())
        try:
            async with asyncio.timeout(timeout):
                while self._waiting:
                    if not await self._send_waiting():
                        await asyncio.sleep(FINISH_PAUSE_SECONDS)
                    # What was counted while that was on its way would go with the file.
                    self._waiting.extend(self._counter.take())
        except TimeoutError:
            self._waiting.extend(self._counter.take())
            self._tell_unsent()
        if self._counter.file is not None:
            self._counter.file.close(remove=not self._waiting)

    async def _run_own(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            await self._round()

    async def _round(self) -> None:
        self._waiting.extend(self._counter.take_closed())
        if await self._send_waiting():
            self._waiting.extend(self._counter.take())
            await self._send_waiting()
        else:
            self._counter.settle()
            await self._sync()
        metrics.USAGE_FILL.set(self._counter.fill)
        if self._counter.fill > NEARLY_FULL and self._filling.due("") is not None:
            logger.error("usage_nearly_full", extra={"fill": round(self._counter.fill, 3)})

    async def _send_waiting(self) -> bool:
        """Send all spans that wait; False where one was not acknowledged."""
        while self._waiting:
            metrics.USAGE_PENDING.set(sum(span.waiting for span in self._waiting))
            span = self._waiting[0]
            if not await self._send(span):
                return False
            self._waiting.popleft()
            self._counter.acknowledged(span)
        metrics.USAGE_PENDING.set(0)
        return True

    async def _send(self, span: Span) -> bool:
        for batch in span.batches():
            if not await self._send_batch(batch):
                return False
            span.acknowledged += 1
        return True

    async def _send_batch(self, batch: UsageBatch) -> bool:
        if not self._bus.is_connected:
            return False
        subject = USAGE_BATCH.subject(source=batch.source)
        headers = {"Nats-Msg-Id": f"{batch.source}:{batch.seq}"}
        sending = asyncio.ensure_future(self._jetstream.publish(subject, _encode(batch), headers=headers))
        try:
            # Not awaited itself: `wait_for` of Python 3.11, in there, may swallow the end of this task.
            await asyncio.wait([sending])
            await sending
        except (NatsError, TimeoutError) as error:
            # Without its stream a batch waits here: only metering may create that.
            held_back = self._repeats.due(type(error).__name__)
            if held_back is not None:
                details = {"error": type(error).__name__, "held_back": held_back}
                if isinstance(error, NoStreamResponseError):
                    details["reason"] = "there is no stream USAGE yet: metering creates it when it starts"
                logger.warning("usage_not_acknowledged", extra=details)
            metrics.USAGE_BATCHES.labels("retried").inc()
            return False
        finally:
            sending.cancel()
        metrics.USAGE_BATCHES.labels("acknowledged").inc()
        return True

    async def _sync(self) -> None:
        """What may wait for long is brought to the disk: the machine may lose its power, too."""
        if self._counter.file is None:
            return
        try:
            await asyncio.to_thread(self._counter.file.sync)
        except OSError as error:
            if self._repeats.due("sync") is not None:
                logger.error("usage_not_synced", extra={"reason": error.strerror})

    async def _run_leftovers(self) -> None:
        while True:
            try:
                while self._bus.is_connected and await self._recover():
                    pass
            except OSError as error:
                if self._repeats.due("leftovers") is not None:
                    logger.error("usage_leftovers_failed", extra={"reason": error.strerror})
            await asyncio.sleep(LEFTOVERS_SECONDS)

    async def _recover(self) -> bool:
        """Send what one file holds; False where there is none, or it could not be sent."""
        assert self._counter.file is not None
        leftover = await asyncio.to_thread(claim, self._counter.file.folder, self._useless)
        if leftover is None:
            return False
        try:
            for span in leftover.spans:
                if not await self._send(span):
                    leftover.give_back()
                    return False
        except BaseException:
            leftover.give_back()
            raise
        leftover.finish()
        return True

    def _tell_unsent(self) -> None:
        details = {"batches": sum(span.waiting for span in self._waiting)}
        if self._counter.file is not None:
            logger.warning("usage_left_behind", extra={**details, "file": self._counter.file.path.name})
        else:
            logger.error("usage_not_delivered", extra=details)
