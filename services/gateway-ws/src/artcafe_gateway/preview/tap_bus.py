"""The NATS connection of the taps: apart from that of the agents, and cheap where nothing will be shown.

A tap brings every message of a tenant, while its dashboards see a few of them each second. On a connection of
its own it cannot delay what agents wait for, and a process that does not keep up loses the tap and nothing
else. Of a subject that *rests*, since nobody can be shown more of it for now, messages are counted where they
stand in what was read: they are not copied, nor is anything called or decoded for them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from artcafe_common.bus import Bus
from artcafe_common.bus_wire import DirectHandler, Wire

logger = logging.getLogger(__name__)

# Between two reads, unless the last one was large: waking up for a few messages costs more than the messages.
PAUSE_SECONDS = 0.05
LARGE_READ_BYTES = 128 * 1024

_LINE_END = b"\r\n"
_MESSAGES = (b"MSG ", b"HMSG ")


class Resting(Protocol):
    """Whoever wants to know how many messages were passed over."""

    passed: int


class TapBus(Bus):
    """A `Bus` for direct subscriptions alone; see the module."""

    def __init__(self) -> None:
        super().__init__()
        # CPU time spent with what was read.
        self.busy_seconds = 0.0
        # The first line of a message of a subject that rests -> who rests, and the bytes that follow it.
        self.known: dict[bytes, tuple[Resting, int]] = {}
        # The same by the line without the size; and that of the message that is being handled.
        self._resting: dict[bytes, Resting] = {}
        self._announced = b""

    def rest(self, who: Resting) -> None:
        """Only count messages like the one that is being handled, until `wake`."""
        self._resting[self._announced] = who

    def wake(self) -> list[Resting]:
        """Hand over every message again; returns who has rested, some of them several times."""
        rested = list(self._resting.values())
        self._resting.clear()
        self.known.clear()
        return rested

    def look_up(self, line: bytes) -> tuple[Resting, int] | None:
        """Return who rests, where a message with this first line is to be counted only."""
        # MSG <subject> <number of the subscription> [reply] <bytes>
        self._announced, _, size = line.rpartition(b" ")
        who = self._resting.get(self._announced)
        if who is None:
            return None
        known = self.known[line] = (who, int(size) + len(_LINE_END))
        return known

    def _new_wire(self) -> Wire:
        return TapWire(self, self._direct, self._write_pending)

    async def _lost(self) -> None:
        # That the platform is away is for the agents' connection to say.
        logger.warning("tap_lost")

    async def _back(self) -> None:
        logger.info("tap_back")


class TapWire(Wire):
    """Reads for a `TapBus`."""

    def __init__(
        self, bus: TapBus, direct: Mapping[bytes, DirectHandler], writable: Callable[[], None]
    ) -> None:
        super().__init__(direct, writable)
        self._bus = bus
        self._resuming: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Count or hand over what was read, and let some more come together."""
        began = time.thread_time()
        super().data_received(data)
        self._bus.busy_seconds += time.thread_time() - began
        if len(data) < LARGE_READ_BYTES and self._transport is not None:
            self._transport.pause_reading()
            self._resuming = asyncio.get_running_loop().call_later(
                PAUSE_SECONDS, self._transport.resume_reading
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is gone."""
        if self._resuming is not None:
            self._resuming.cancel()
        super().connection_lost(exc)

    def _take(self, data: bytes) -> int:
        bus = self._bus
        size = len(data)
        start = 0
        while True:
            line_end = data.find(_LINE_END, start)
            if line_end < 0:
                return start + super()._take(data[start:])
            line = data[start : line_end + 2]
            known = bus.known.get(line)
            if known is None:
                known = bus.look_up(line)
            if known is not None:
                rests, payload = known
                step = len(line) + payload
                count = 0
                # Messages like it often follow: nothing but their first line is looked at.
                while data.startswith(line, start) and start + step <= size:
                    count += 1
                    start += step
                rests.passed += count
                if count == 0:
                    return start
                continue
            end = line_end + 2
            if line.startswith(_MESSAGES):
                end += int(line.rpartition(b" ")[2]) + 2
                if end > size:
                    return start
            super()._take(data[start:end])
            start = end
