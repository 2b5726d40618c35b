"""All previews of a process: one tap per tenant on all of its traffic, however many dashboards watch.

What a message costs before anybody is shown it is what this costs the platform. A message whose viewers have
all been shown what they may be for now is only counted, where it stands in what NATS sent (`tap_bus`). Time
goes in ticks of a fifth of a second: rates are refilled, counts are shared out and notices sent by the tick.

Previews give way in two steps (`relief`) while the event loop is late or the taps take more than their share
of it, those of the tenants with the most messages first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from nats.aio.subscription import Subscription as NatsSubscription

from artcafe_common.clock import Clock, rfc3339
from artcafe_common.contracts.subjects import tenant_tap
from artcafe_common.errors import ServiceError, unavailable
from artcafe_common.log import Repeats
from artcafe_common.quota import TokenBucket
from artcafe_gateway import metrics
from artcafe_gateway.background import Background
from artcafe_gateway.connection import Connection
from artcafe_gateway.preview.audience import Audience, Route
from artcafe_gateway.preview.origin import Origins
from artcafe_gateway.preview.relief import Ladder, Relief
from artcafe_gateway.preview.rendering import Renderer
from artcafe_gateway.preview.selection import Selection
from artcafe_gateway.preview.tap_bus import TapBus
from artcafe_gateway.preview.viewer import Viewer
from artcafe_gateway.preview.wanted import Wanted
from artcafe_gateway.tap import close_tap, open_tap

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewLimits:
    """What previews may take.

    Messages per second and at once of one preview, per second of all of a tenant in this process, and the
    bytes of data shown of each. Previews give way where taps take more than a `share` of the time, and where
    the event loop is `late` by more than so many seconds.
    """

    rate: float
    burst: float
    tenant_rate: float
    data_bytes: int
    share: float
    late: float


class _Tap:
    """One tenant's traffic."""

    def __init__(self, tenant_id: str, clock: Clock, bucket: TokenBucket) -> None:
        self.tenant_id = tenant_id
        self.audience = Audience()
        self.nats: NatsSubscription | None = None
        self.bucket = bucket
        self.ladder = Ladder(clock)
        # Whether all viewers rest, so that of no subject anything will be shown.
        self.rests = False
        # Who is asked first: where the tenant's limit is short, it is somebody else's turn each tick.
        self.turn = 0
        self.switching = False


class Previews:
    """All previews of this process."""

    def __init__(
        self, bus: TapBus, clock: Clock, origins: Origins, server_id: str, limits: PreviewLimits
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._origins = origins
        self._renderer = Renderer(server_id, clock, origins)
        self._limits = limits
        self._taps: dict[str, _Tap] = {}
        self._lock = asyncio.Lock()
        self._background = Background()
        self._watched = asyncio.Event()
        self._flushing: dict[Viewer, None] = {}
        # The time as rates see it: all dashboards get their next messages at the same moment.
        self._ticked_at = clock.monotonic()
        self._busy_seconds = 0.0
        self._repeats = Repeats(clock=clock)

    def viewer(self, tenant_id: str, user_id: str, connection: Connection) -> Viewer:
        """Return a preview that shows nothing yet, for a session to keep."""
        limits = self._limits
        bucket = TokenBucket(limits.rate, limits.burst, self._ticked_at)
        return Viewer(tenant_id, user_id, connection, self._clock, bucket)

    async def watch(self, viewer: Viewer, wanted: Wanted) -> dict[str, Any]:
        """Show a tenant's traffic, or change what is shown; returns the limits that hold.

        Raises: ServiceError ``unavailable``, ``resource_exhausted``.
        """
        tenant_id, limits = viewer.tenant_id, self._limits
        await self._origins.ready()
        async with self._lock:
            if not self._bus.is_connected:
                raise unavailable("message bus")
            tap = self._taps.get(tenant_id)
            if tap is None:
                if not self._taps:
                    self._ticked_at = self._clock.monotonic()
                bucket = TokenBucket(limits.tenant_rate, limits.tenant_rate, self._ticked_at)
                tap = _Tap(tenant_id, self._clock, bucket)
                tap.nats = await open_tap(self._bus, tenant_tap(tenant_id), self._handler(tap))
                self._taps[tenant_id] = tap
                self._watched.set()
            tap.audience.check(viewer, wanted)
            self._settle()
            if viewer in tap.audience.viewers:
                viewer.flush()
                # What comes after the confirmation is of what is watched from then on.
                viewer.tell_left()
                _record_end(viewer, self._clock)
            viewer.bucket.rate = min(wanted.max_rate or limits.rate, limits.rate)
            viewer.bucket.burst = min(limits.burst, max(1.0, viewer.bucket.rate * 2))
            viewer.change(wanted, 0 if wanted.counts_only else _least(wanted.max_bytes, limits.data_bytes))
            tap.audience.join(viewer)
            tap.rests = False
            _record_start(viewer)
        if viewer.connection.closing:
            # The dashboard has gone meanwhile.
            await self.leave(viewer)
        self._gauge()
        return {
            "max_rate": viewer.bucket.rate,
            "burst": viewer.bucket.burst,
            "tenant_max_rate": limits.tenant_rate,
            "max_bytes": viewer.data_bytes,
            "state": viewer.state,
        }

    async def leave(self, viewer: Viewer) -> None:
        """Show nothing more; the last preview of a tenant ends its tap."""
        async with self._lock:
            tap = self._taps.get(viewer.tenant_id)
            if tap is None or viewer not in tap.audience.viewers:
                return
            self._settle()
            viewer.flush()
            viewer.tell_states()
            viewer.tell_left()
            tap.audience.part(viewer)
            _record_end(viewer, self._clock)
            if not tap.audience.viewers:
                del self._taps[viewer.tenant_id]
                if tap.nats is not None:
                    await close_tap(self._bus, tap.nats)
        self._gauge()

    async def run(self) -> None:
        """Look after all previews, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._taps:
                self._watched.clear()
                await self._watched.wait()
                self._ticked_at = self._clock.monotonic()
                self._busy_seconds = self._bus.busy_seconds
            due = loop.time() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            try:
                self.tick(loop.time() - due)
            except Exception:
                # The process would stop, with all agents on it.
                if (held_back := self._repeats.due("tick")) is not None:
                    logger.exception("preview_tick_failed", extra={"held_back": held_back})

    async def close(self) -> None:
        """Wait for what was begun in the background."""
        await self._background.wait()
        await self._origins.close()

    def tick(self, late: float) -> None:
        """Share out what was counted, refill rates, tell what is to be told; `late` by so many seconds."""
        began = time.thread_time()
        self._settle()
        now = self._clock.monotonic()
        passed, self._ticked_at = now - self._ticked_at, now
        busy, self._busy_seconds = self._bus.busy_seconds - self._busy_seconds, self._bus.busy_seconds
        metrics.PREVIEW_TAP_SECONDS.inc(busy)
        pressed = late > self._limits.late or busy > passed * self._limits.share
        most = max((tap.audience.messages for tap in self._taps.values()), default=0)
        for tap in self._taps.values():
            # Who has few messages is not what takes the time.
            if tap.ladder.tick(pressed and tap.audience.messages * 2 >= most):
                logger.warning(
                    "preview_relief", extra={"tenant_id": tap.tenant_id, "step": tap.ladder.step.name.lower()}
                )
            tap.audience.messages = 0
            tap.rests = False
            tap.turn += 1
            for viewer in tap.audience.viewers:
                if tap.nats is None or not self._bus.is_connected:
                    viewer.unseen(passed)
                viewer.tick(tap.ladder.step)
            wanted = tap.ladder.step is not Relief.OFF
            # Nothing is opened while NATS is away.
            if wanted is (tap.nats is None) and not tap.switching and self._bus.is_connected:
                tap.switching = True
                self._background.spawn(self._switch(tap))
        # This too is time that agents wait; it counts with the next tick.
        self._bus.busy_seconds += time.thread_time() - began

    async def _switch(self, tap: _Tap) -> None:
        """Close the tap, or open it again, as its ladder says."""
        try:
            async with self._lock:
                if self._taps.get(tap.tenant_id) is not tap:
                    return
                if tap.ladder.step is not Relief.OFF:
                    tap.nats = await open_tap(self._bus, tenant_tap(tap.tenant_id), self._handler(tap))
                elif tap.nats is not None:
                    nats, tap.nats = tap.nats, None
                    await close_tap(self._bus, nats)
        except ServiceError as error:
            # The next tick tries again.
            logger.warning("tap_not_opened", extra={"tenant_id": tap.tenant_id, "code": error.code})
        finally:
            tap.switching = False

    def _settle(self) -> None:
        """Share out what was counted while subjects rested, and look at each anew."""
        passed: Counter[tuple[Selection, bool]] = Counter()
        for route in self._bus.wake():
            assert isinstance(route, Route)
            count, route.passed, route.rests = route.passed, 0, False
            if count:
                route.audience.messages += count
                for selection in route.selections:
                    passed[selection, route.presence] += count
        for (selection, presence), count in passed.items():
            for viewer in selection.viewers:
                viewer.passed(count, presence)

    def _handler(self, tap: _Tap) -> Callable[[bytes, bytes], None]:
        audience = tap.audience

        def on_message(subject: bytes, frame: bytes) -> None:
            route = audience.route(subject)
            if tap.rests or route.rests or not route.viewers:
                route.passed += 1
                self._bus.rest(route)
                return
            audience.messages += 1
            texts: dict[int, bytes] = {}
            viewers = route.viewers
            first = tap.turn % len(viewers)
            for viewer in viewers[first:] + viewers[:first]:
                if viewer.takes(frame, self._ticked_at, tap.bucket, route.presence):
                    text = texts.get(viewer.data_bytes)
                    if text is None:
                        text = self._renderer.render(subject.decode(), frame, viewer.data_bytes)
                        texts[viewer.data_bytes] = text
                    viewer.show(text)
                    if not viewer.wanted.batch:
                        self._flush_soon(viewer)
            if not route.by_message and all([viewer.rests for viewer in viewers]):
                route.rests = True
                self._bus.rest(route)
                tap.rests = all([viewer.rests and not viewer.by_message for viewer in audience.viewers])

        return on_message

    def _flush_soon(self, viewer: Viewer) -> None:
        if not self._flushing:
            # After all messages of this read: one write for each dashboard.
            asyncio.get_running_loop().call_soon(self._flush)
        self._flushing[viewer] = None

    def _flush(self) -> None:
        flushing, self._flushing = self._flushing, {}
        for viewer in flushing:
            viewer.flush()

    def _gauge(self) -> None:
        metrics.PREVIEW_TAPS.set(len(self._taps))
        metrics.PREVIEWS.set(sum(len(tap.audience.viewers) for tap in self._taps.values()))


def _least(asked: int | None, limit: int) -> int:
    return limit if asked is None else min(asked, limit)


def _record_start(viewer: Viewer) -> None:
    logger.info("preview_started", extra=_record(viewer))


def _record_end(viewer: Viewer, clock: Clock) -> None:
    logger.info(
        "preview_ended",
        extra=_record(viewer)
        | {
            "started_at": rfc3339(viewer.started_at),
            "seconds": round(clock.now() - viewer.started_at, 1),
            "shown": viewer.shown,
            "shown_bytes": viewer.shown_bytes,
            "left_out": viewer.left_out,
        },
    )


def _record(viewer: Viewer) -> dict[str, Any]:
    wanted = viewer.wanted
    fields: dict[str, Any] = {
        "tenant_id": viewer.tenant_id,
        "user_id": viewer.user_id,
        "connection_id": viewer.connection.connection_id,
        "patterns": list(wanted.patterns),
        "counts_only": wanted.counts_only,
        "sample": wanted.sample,
        "max_rate": viewer.bucket.rate,
        "max_bytes": viewer.data_bytes,
    }
    if wanted.channels is not None:
        fields["where_channel"] = list(wanted.channels)
    if wanted.senders is not None:
        fields["where_sender"] = sorted(msgspec.json.decode(sender, type=str) for sender in wanted.senders)
    if wanted.size_min or wanted.size_max is not None:
        fields["where_size"] = {"min": wanted.size_min, "max": wanted.size_max}
    return fields
