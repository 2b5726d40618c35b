"""The NATS connection of a service: `nats.aio.client.Client` with what the platform needs of it.

What differs from the library's client:

- A PING takes its place behind what was asked for before it. The library's own is written past SUB and UNSUB
  commands that still wait for the flusher task, so that `flush` returns too early: a request made right after
  a subscription can miss it, and a subscription that is being drained can lose messages.
- `subscribe_direct` calls a plain function where the bytes come in (`bus_wire`): no queue and no task. All
  messages of one read are handed over in one turn of the event loop, which is what lets a fan-out be
  written once per socket.
- `publish_nowait` queues a message without a coroutine, to be written with all others of this turn of the
  event loop; it refuses at once while the server is away, and bounds what waits.
- It reconnects for ever: also after an error by which the library's client would close itself for good (a
  message over the server's limit, credentials that are being changed). It tells its owner when the server
  went away and came back.
- A flush that was given up does no harm (in the library its late PONG ends the read loop), and a task that is
  cancelled while a command is queued does end.

It builds on private names of nats-py, so that library is pinned and a test checks each of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Self

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import FlushTimeoutError, SlowConsumerError, StaleConnectionError

from artcafe_common import metrics
from artcafe_common.bus_wire import DirectHandler, Wire
from artcafe_common.errors import invalid, unavailable
from artcafe_common.log import Repeats

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 2
RECONNECT_WAIT_SECONDS = 0.25
PING_INTERVAL_SECONDS = 10
OUTBOUND_BYTES_MAX = 16 * 1024 * 1024
FLUSH_TIMEOUT_SECONDS = 10

_PERMISSIONS_ERROR = "permissions violation"
_PING = b"PING\r\n"

Listener = Callable[[], None]


class Bus(Client):
    """A connection to NATS that keeps itself up; see the module."""

    def __init__(self) -> None:
        super().__init__()
        # By the number of the subscription as it stands on the wire.
        self._direct: dict[bytes, DirectHandler] = {}
        self._wire: Wire | None = None
        self._write_due = False
        self._on_lost: list[Listener] = []
        self._on_back: list[Listener] = []
        self._leaving = False
        self._repeats = Repeats()

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        name: str,
        user: str | None = None,
        password: str | None = None,
    ) -> Self:
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
                    flush_timeout=FLUSH_TIMEOUT_SECONDS,
                    # An inbox of its own, so that no service can listen to the answers another one gets.
                    inbox_prefix=f"_INBOX_{user}" if user else "_INBOX",
                    error_cb=bus._report_error,
                    disconnected_cb=bus._lost,
                    reconnected_cb=bus._back,
                )
                metrics.BUS_UP.set(1)
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

    async def subscribe_direct(self, subject: str, handler: DirectHandler) -> Subscription:
        """Subscribe with a function that gets (subject, payload) as bytes, where they come in.

        The handler must not raise and must return quickly: nothing else is read meanwhile.
        """
        # Known under the number that `subscribe` takes next, so that not even the first message is queued.
        number = b"%d" % (self._sid + 1)
        self._direct[number] = handler
        try:
            return await self.subscribe(subject)
        except BaseException:
            self._direct.pop(number, None)
            raise

    def at_end_of_read(self, callback: Callable[[], None]) -> None:
        """For direct handlers: call a function when all messages of this read have been handed over.

        It saves a turn of the event loop, and comes before anything else runs.
        """
        assert self._wire is not None
        self._wire.at_end_of_read(callback)

    async def unsubscribe_direct(self, subscription: Subscription) -> None:
        """End a direct subscription; messages on their way are dropped."""
        self._direct.pop(b"%d" % subscription._id, None)
        if not self.is_closed:
            await subscription.unsubscribe()

    def publish_nowait(self, subject: str, payload: bytes) -> None:
        """Queue a message for the server, to be written in this turn of the event loop.

        `subject` must have been built from checked ids: it is not looked at here.

        Raises: ServiceError ``unavailable`` while the server is away or too much waits already;
        ``invalid_argument`` for a payload over the server's limit.
        """
        if not self.is_connected or self._pending_data_size > OUTBOUND_BYTES_MAX:
            raise unavailable("message bus")
        if len(payload) > self._max_payload:
            # The server would cut the connection.
            raise invalid(f"a message is at most {self._max_payload} bytes")
        command = b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(payload), payload)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)
        self._pending.append(command)
        self._pending_data_size += len(command)
        if not self._write_due:
            self._write_due = True
            asyncio.get_running_loop().call_soon(self._write_pending)

    async def close(self) -> None:
        """Close at once; what waits to be sent is lost unless the server takes it right away."""
        self._leaving = True
        try:
            await super().close()
        except OSError as error:
            # The connection broke before the last bytes were out; nats-py gives up there, half closed.
            logger.warning("nats_flush_failed", extra={"error": type(error).__name__})
            self._pending, self._pending_data_size = [], 0
            self._status = Client.DISCONNECTED
            await super().close()

    async def close_gracefully(self, timeout: float = 3.0) -> None:
        """Send what waits, then close; at most `timeout` seconds for each, even if the server is away."""
        try:
            async with asyncio.timeout(timeout):
                if self.is_connected:
                    await self.flush()
        except Exception as error:
            logger.warning("nats_flush_failed", extra={"error": type(error).__name__})
        try:
            async with asyncio.timeout(timeout):
                await self.close()
        except TimeoutError:
            logger.warning("nats_close_timed_out")
            # It waits for what the server does not read.
            writer = getattr(self._transport, "_io_writer", None)
            if writer is not None:
                writer.transport.abort()
        metrics.BUS_UP.set(0)

    def _write_pending(self) -> None:
        """Write what waits, in its order, unless the socket is full; nats-py's flusher finds nothing then."""
        self._write_due = False
        wire = self._wire
        if self._pending and wire is not None and not wire.full and self.is_connected:
            commands, self._pending = self._pending, []
            self._pending_data_size = 0
            wire.write(commands[0] if len(commands) == 1 else b"".join(commands))

    def _new_wire(self) -> Wire:
        return Wire(self._direct, self._write_pending)

    async def _read_loop(self) -> None:
        """Give nats-py what is not for direct handlers, until the connection has ended."""
        stream = self._transport
        assert stream is not None
        wire = self._wire = self._new_wire()
        wire.take_over(stream._io_writer, stream._io_reader)  # type: ignore[attr-defined]
        try:
            while True:
                await self._ps.parse(await wire.others())
        except Exception as error:
            if not isinstance(error, NatsError | OSError):
                logger.exception("nats_reading_failed")
            if not (self.is_closed or self.is_reconnecting):
                await self._report_error(error)
                await self._process_op_err(error)

    async def _connect_to_server(self, s: Any) -> None:
        # A connection whose handshake failed is still open.
        if self._transport:
            self._transport.close()  # type: ignore[no-untyped-call]
        if not self._leaving:
            await super()._connect_to_server(s)
        if self._leaving:
            # Closed meanwhile. nats-py cancels its reconnecting, but a cancellation that meets the outcome of
            # an attempt is lost in `wait_for`, and it would go on for ever.
            if self._transport:
                self._transport.close()  # type: ignore[no-untyped-call]
            raise asyncio.CancelledError
        transport = self._transport
        assert transport is not None
        # Python 3.12 and 3.13 do not tell the writer of many parts that the socket is full: without that,
        # nothing would bound what waits.
        transport.writelines = lambda payload: transport.write(b"".join(payload))  # type: ignore[method-assign]

    async def _flush_pending(self, force_flush: bool = False) -> None:
        """Have what waits written; `force_flush` waits for it. Unlike the library's it can be cancelled."""
        queue, flusher = self._flush_queue, self._flusher_task
        if queue is None or not self.is_connected or flusher is None or flusher.done():
            await super()._flush_pending(force_flush)
            return
        if not force_flush and not queue.empty():
            # The flusher has still to wake for somebody who came before, and takes all that waits by then.
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.put_nowait(done)
        if force_flush:
            try:
                async with asyncio.timeout(self._flush_timeout):
                    await done
            except TimeoutError:
                await self._report_error(FlushTimeoutError())

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        self._pending.append(_PING)
        self._pending_data_size += len(_PING)
        await self._flush_pending()

    async def _process_pong(self) -> None:
        if self._pongs:
            waiting = self._pongs.pop(0)
            # Whoever gave up waiting has cancelled it.
            if not waiting.done():
                waiting.set_result(True)
            self._pongs_received += 1
            self._pings_outstanding = 0

    async def _process_err(self, err_msg: str) -> None:
        error = NatsError("nats: " + err_msg.strip("'"))
        self._err = error
        await self._report_error(error)
        if _PERMISSIONS_ERROR not in err_msg:
            await self._process_op_err(error)

    async def _report_error(self, error: Exception) -> None:
        dropped = isinstance(error, SlowConsumerError)
        details: dict[str, Any] = {"error": type(error).__name__}
        if isinstance(error, SlowConsumerError):
            metrics.BUS_DROPPED.inc()
            details["subject"] = error.subject
        elif isinstance(error, NatsError):
            details["detail"] = str(error)
        # While the server is away each attempt fails, and a slow consumer loses each message.
        held_back = self._repeats.due(str(sorted(details.items())))
        if held_back is not None:
            event = "nats_slow_consumer" if dropped else "nats_error"
            level = logging.ERROR if dropped else logging.WARNING
            logger.log(level, event, extra={**details, "held_back": held_back})

    async def _lost(self) -> None:
        metrics.BUS_UP.set(0)
        # The answers to these went with the connection.
        for waiting in self._pongs:
            if not waiting.done():
                waiting.set_exception(StaleConnectionError())
                # Where nobody waits, nobody need be told.
                waiting.exception()
        if self._leaving:
            return
        logger.warning("nats_lost")
        self._tell(self._on_lost)

    async def _back(self) -> None:
        metrics.BUS_UP.set(1)
        logger.info("nats_back")
        self._tell(self._on_back)

    def _tell(self, listeners: list[Listener]) -> None:
        for listener in listeners:
            try:
                listener()
            except Exception:
                # Raising here would end nats-py's reconnecting for good.
                logger.exception("bus_listener_failed")
