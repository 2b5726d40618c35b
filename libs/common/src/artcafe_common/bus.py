"""The NATS connection of a service: `nats.aio.client.Client` with what the platform needs of it.

Four differences from the library's client:

- `flush` returns only when what was asked for before it (SUB and UNSUB too) has reached the server. The
  library's own sends its PING past commands that still wait for the flusher task, so that a request made
  right after a subscription can miss it.
- `subscribe_direct` calls a plain function from the read loop: no queue and no task per subscription. All
  messages of one read are handed over in one turn of the event loop, which is what lets a fan-out be
  written once per socket.
- `publish_nowait` queues a message without a coroutine, refuses at once while the server is away, and bounds
  what waits.
- Reconnects for ever, and tells its owner when the server went away and came back.

It builds on private names of nats-py, so that library is pinned and `test_bus.py` checks each of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import SlowConsumerError

from artcafe_common.errors import unavailable

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 2
RECONNECT_WAIT_SECONDS = 0.25
PING_INTERVAL_SECONDS = 10
OUTBOUND_BYTES_MAX = 16 * 1024 * 1024

DirectHandler = Callable[[bytes, bytes], None]
Listener = Callable[[], None]


class Bus(Client):
    """A connection to NATS that keeps itself up; see the module."""

    def __init__(self) -> None:
        super().__init__()
        self._direct: dict[int, DirectHandler] = {}
        self._on_lost: list[Listener] = []
        self._on_back: list[Listener] = []
        self._leaving = False

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        name: str,
        user: str | None = None,
        password: str | None = None,
    ) -> Bus:
        """Connect, trying for ever: a service waits for NATS, it does not crash because it came first.

        Raises: asyncio.CancelledError when the caller stops waiting.
        """
        bus = cls()
        servers = [server.strip() for server in url.split(",")]
        while True:
            try:
                await bus.connect(
                    servers=servers,
                    name=name,
                    user=user,
                    password=password,
                    connect_timeout=CONNECT_TIMEOUT_SECONDS,
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,
                    # Annotated as whole seconds, used as the argument of a sleep.
                    reconnect_time_wait=RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]
                    ping_interval=PING_INTERVAL_SECONDS,
                    max_outstanding_pings=2,
                    pending_size=OUTBOUND_BYTES_MAX,
                    flusher_queue_size=1024,
                    # An inbox of its own, so that no service can listen to the answers another one gets.
                    inbox_prefix=f"_INBOX_{user}" if user else "_INBOX",
                    error_cb=bus._report_error,
                    disconnected_cb=bus._lost,
                    reconnected_cb=bus._back,
                )
                return bus
            except Exception as error:
                logger.warning("nats_connect_failed", extra={"error": type(error).__name__})
                bus = cls()
                await asyncio.sleep(RECONNECT_WAIT_SECONDS * 4)

    def on_lost(self, listener: Listener) -> None:
        """Call a function whenever the connection is lost."""
        self._on_lost.append(listener)

    def on_back(self, listener: Listener) -> None:
        """Call a function whenever the connection is there again, subscriptions included."""
        self._on_back.append(listener)

    async def flush(self, timeout: int = 10) -> None:
        """Wait until the server has processed everything sent so far; `timeout` in seconds."""
        # First what waits for the flusher, then the PING behind it.
        await self._flush_pending(force_flush=True)
        await super().flush(timeout)

    async def subscribe_direct(self, subject: str, handler: DirectHandler) -> Subscription:
        """Subscribe with a function that gets (subject, payload) as bytes, from the read loop itself.

        The handler must not raise and must return quickly: nothing else is read meanwhile.
        """
        subscription = await self.subscribe(subject)
        self._direct[subscription._id] = handler
        # What came in while the subscription was being sent waits in its queue.
        while not subscription._pending_queue.empty():
            message = subscription._pending_queue.get_nowait()
            handler(message.subject.encode(), message.data)
        return subscription

    async def unsubscribe_direct(self, subscription: Subscription) -> None:
        """End a direct subscription; messages on their way are dropped."""
        self._direct.pop(subscription._id, None)
        if not self.is_closed:
            await subscription.unsubscribe()

    def publish_nowait(self, subject: str, payload: bytes) -> None:
        """Queue a message for the server, to be written in this turn of the event loop.

        Raises: ServiceError ``unavailable`` while the server is away or too much waits already.
        """
        if not self.is_connected or self._pending_data_size > OUTBOUND_BYTES_MAX:
            raise unavailable("message bus")
        command = b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(payload), payload)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)
        self._pending.append(command)
        self._pending_data_size += len(command)
        if self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    async def close_gracefully(self, timeout: float = 3.0) -> None:
        """Send what waits, then close; never longer than `timeout` seconds even if the server is away."""
        try:
            async with asyncio.timeout(timeout):
                if self.is_connected:
                    await self.flush()
        except Exception as error:
            logger.warning("nats_flush_failed", extra={"error": type(error).__name__})
        self._leaving = True
        try:
            async with asyncio.timeout(timeout):
                await self.close()
        except TimeoutError:
            logger.warning("nats_close_timed_out")

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        handler = self._direct.get(sid)
        if handler is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            handler(subject, data)
        except Exception:
            # Raising here would end nats-py's read loop, and with it every subscription of the process.
            logger.exception("direct_handler_failed")

    async def _report_error(self, error: Exception) -> None:
        details: dict[str, Any] = {"error": type(error).__name__, "detail": str(error)[:200]}
        if isinstance(error, SlowConsumerError):
            details["subject"] = error.subject
            logger.error("nats_slow_consumer", extra=details)
        else:
            logger.warning("nats_error", extra=details)

    async def _lost(self) -> None:
        if self._leaving:
            return
        logger.warning("nats_lost")
        for listener in self._on_lost:
            listener()

    async def _back(self) -> None:
        logger.info("nats_back")
        for listener in self._on_back:
            listener()
