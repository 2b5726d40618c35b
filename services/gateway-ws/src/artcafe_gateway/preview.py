"""Topic preview: a tenant's live traffic for its dashboards, one tap per tenant and process.

The tap costs agents nothing: it is a NATS subscription of its own, looked at by rate-limited viewers.
A viewer is shown what its patterns match, as fast as its limit allows; what is left out is told once
a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nats.aio.subscription import Subscription as NatsSubscription

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock, rfc3339
from artcafe_common.contracts.subjects import channel_of, tenant_tap
from artcafe_common.envelope import decode_frame
from artcafe_common.ids import pattern_matches
from artcafe_common.quota import TokenBucket
from artcafe_gateway import metrics
from artcafe_gateway.connection import Connection
from artcafe_gateway.fanout import data_size
from artcafe_gateway.frames import event
from artcafe_gateway.tap import close_tap, open_tap

NOTICE_SECONDS = 1.0
ROUTES_MAX = 10_000


class Viewer:
    """One dashboard's preview: its patterns and its limit (messages per second)."""

    def __init__(self, connection: Connection, patterns: tuple[str, ...], bucket: TokenBucket) -> None:
        self.connection = connection
        self.patterns = patterns
        self.bucket = bucket
        self.dropped = 0
        self.dropped_since = 0.0


class _Tap:
    def __init__(self) -> None:
        self.viewers: dict[Connection, Viewer] = {}
        # Subject -> the channel, and who watches it; found out once for each subject.
        self.routes: dict[bytes, tuple[str, tuple[Viewer, ...]]] = {}
        self.nats: NatsSubscription | None = None

    def route(self, subject: bytes) -> tuple[str, tuple[Viewer, ...]]:
        known = self.routes.get(subject)
        if known is None:
            if len(self.routes) >= ROUTES_MAX:
                self.routes.clear()
            _, channel_id = channel_of(subject.decode())
            viewers = tuple(
                viewer
                for viewer in self.viewers.values()
                if any(pattern_matches(pattern, channel_id) for pattern in viewer.patterns)
            )
            known = self.routes[subject] = (channel_id, viewers)
        return known


class Previews:
    """All previews of this process."""

    def __init__(self, bus: Bus, clock: Clock, server_id: str, rate: float, burst: float) -> None:
        self._bus = bus
        self._clock = clock
        self._server_id = server_id
        self._rate = rate
        self._burst = burst
        self._taps: dict[str, _Tap] = {}
        self._lock = asyncio.Lock()

    def bucket(self) -> TokenBucket:
        """Return the limit of one dashboard; it lasts as long as its session, whatever it asks for."""
        return TokenBucket(self._rate, self._burst, self._clock.monotonic())

    async def watch(
        self,
        tenant_id: str,
        connection: Connection,
        patterns: tuple[str, ...],
        max_rate: float | None,
        bucket: TokenBucket,
    ) -> float:
        """Show a tenant's traffic on a connection, or change what is shown; returns the rate that holds.

        Raises: ServiceError ``unavailable``.
        """
        rate = bucket.rate = min(max_rate or self._rate, self._rate)
        bucket.burst = min(self._burst, max(1.0, rate * 2))
        old = self._viewer(tenant_id, connection)
        async with self._lock:
            tap = self._taps.get(tenant_id)
            if tap is None:
                tap = _Tap()
                tap.nats = await open_tap(self._bus, tenant_tap(tenant_id), self._handler(tap))
                self._taps[tenant_id] = tap
            if not connection.closing:
                viewer = tap.viewers[connection] = Viewer(connection, patterns, bucket)
                if old is not None:
                    viewer.dropped, viewer.dropped_since = old.dropped, old.dropped_since
                tap.routes.clear()
                return rate
        # The dashboard has gone meanwhile.
        await self.leave(tenant_id, connection)
        return rate

    async def leave(self, tenant_id: str, connection: Connection) -> None:
        """Show nothing more on a connection; the last one of a tenant ends its tap."""
        async with self._lock:
            tap = self._taps.get(tenant_id)
            if tap is None:
                return
            viewer = tap.viewers.pop(connection, None)
            if viewer is not None:
                self._tell(viewer)
            tap.routes.clear()
            if not tap.viewers:
                del self._taps[tenant_id]
                if tap.nats is not None:
                    await close_tap(self._bus, tap.nats)

    async def run(self) -> None:
        """Tell viewers what was left out, once a second, until cancelled."""
        while True:
            await asyncio.sleep(NOTICE_SECONDS)
            self.tell_dropped()

    def tell_dropped(self) -> None:
        """Tell every viewer what was left out since it was last told."""
        for tap in self._taps.values():
            for viewer in tap.viewers.values():
                self._tell(viewer)

    def _tell(self, viewer: Viewer) -> None:
        # A dashboard that does not read is told when it reads again.
        if viewer.dropped and not viewer.connection.blocked:
            window = round((self._clock.monotonic() - viewer.dropped_since) * 1000)
            viewer.connection.send(
                event("topic_preview_dropped", count=viewer.dropped, reason="rate_limit", window_ms=window)
            )
            viewer.dropped = 0

    def _viewer(self, tenant_id: str, connection: Connection) -> Viewer | None:
        tap = self._taps.get(tenant_id)
        return tap.viewers.get(connection) if tap is not None else None

    def _handler(self, tap: _Tap) -> Callable[[bytes, bytes], None]:
        def on_message(subject: bytes, frame: bytes) -> None:
            channel_id, viewers = tap.route(subject)
            now = self._clock.monotonic()
            text: bytes | None = None
            for viewer in viewers:
                if viewer.connection.blocked or not viewer.bucket.take(now):
                    if not viewer.dropped:
                        viewer.dropped_since = now
                    viewer.dropped += 1
                    metrics.PREVIEW_DROPPED.inc()
                    continue
                if text is None:
                    text = self._render(subject.decode(), channel_id, frame)
                viewer.connection.send(text)

        return on_message

    def _render(self, subject: str, channel_id: str, frame: bytes) -> bytes:
        message = decode_frame(frame)
        return event(
            "topic_preview_message",
            subject=subject,
            topic=channel_id,
            data=message.data,
            size=data_size(frame),
            timestamp=message.timestamp,
            message_id=message.message_id,
            path={
                "publisher": message.sender,
                "subject": subject,
                "gateway": self._server_id,
                "published_at": message.timestamp,
                "forwarded_at": rfc3339(self._clock.now()),
                "kind": "live",
            },
        )
