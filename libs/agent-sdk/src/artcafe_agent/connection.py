"""One authenticated socket of an agent, from its welcome to its close."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from artcafe_agent.errors import (
    AckTimeout,
    ArtcafeError,
    CommandError,
    ConnectionLost,
    Disconnected,
    OutcomeUnknown,
    ProtocolError,
    disconnected,
)
from artcafe_agent.protocol import (
    AnyEvent,
    Command,
    Delivery,
    Dropped,
    Error,
    Event,
    Heartbeat,
    HeartbeatAck,
    Unknown,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    decode,
    encode,
)
from artcafe_agent.states import Heartbeats

logger = logging.getLogger("artcafe_agent.connection")

NO_STATUS = 1006  # RFC 6455: the connection broke without a close frame

Notice = Error | Unsubscribed | Dropped


class Connection:
    """Commands, answers, deliveries and heartbeats of one socket.

    `run` must be awaited for anything to be received. It ends by raising the reason of the end.
    """

    def __init__(
        self,
        socket: ClientConnection,
        welcome: Welcome,
        heartbeats: Heartbeats,
        *,
        metrics: Callable[[], dict[str, Any]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.welcome = welcome
        self.heartbeats = heartbeats
        self.connected_at = datetime.now(UTC)
        self._socket = socket
        self._metrics = metrics
        self._clock = clock
        self._ids = itertools.count(1)
        self._answers: dict[str, _Waiting] = {}
        self._died: Disconnected | None = None
        self._garbage = 0
        self._unmeasured = False

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent; false as soon as the end is known, before anybody is told."""
        return self._socket.state is State.OPEN

    async def run(self, deliver: Callable[[Delivery], None], notice: Callable[[Notice], None]) -> NoReturn:
        """Receive until the connection ends.

        ``deliver`` gets each message; ``notice`` what else the server says unasked. Neither may wait.

        Raises:
            Disconnected: Always, with the close code; its type says whether to come back.
        """
        beating = asyncio.create_task(self._beat())
        # The heart stops only when the connection is dead. Not close(): it waits for a silent peer.
        beating.add_done_callback(lambda _: self._socket.transport.abort())
        ended: Disconnected | None = None
        try:
            while True:
                self._receive(await self._socket.recv(decode=False), deliver, notice)
        except ConnectionClosed as closed:
            ended = self._died or reason_of(closed)
            raise ended from None
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating
            self._fail_waiting(ended)

    async def send(self, command: Command) -> None:
        """Send a command and expect no answer.

        Raises:
            ConnectionLost: The connection broke.
        """
        try:
            await self._socket.send(encode(command))
        except ConnectionClosed as closed:
            raise ConnectionLost(_name(command), str(self._died or reason_of(closed))) from None

    async def ask(self, command: Command, timeout: float) -> Event:
        """Send a command and return the event that answers it.

        Raises:
            CommandError: The server refused it.
            ConnectionLost: The connection broke first; whether it took effect is unknown.
            AckTimeout: No answer came within ``timeout`` seconds; likewise.
        """
        identifier = str(next(self._ids))
        waiting = self._answers[identifier] = _Waiting(_name(command))
        try:
            async with asyncio.timeout(timeout):
                await self.send(msgspec.structs.replace(command, id=identifier))
                event = await waiting.answer
        except TimeoutError:
            raise AckTimeout(_name(command), f"no answer within {timeout:.3g} s") from None
        finally:
            del self._answers[identifier]
        if isinstance(event, Error):
            raise CommandError(event.code, event.message, _name(command), event.retry_after, event.quota())
        return event

    async def leave(self, channel: str, timeout: float) -> None:
        """Unsubscribe, and wait up to ``timeout`` seconds for the answer; 0 only sends.

        Whatever becomes of it, nobody listens any more: what still comes is ignored.
        """
        try:
            await self.ask(Unsubscribe(channel=channel), timeout)
        except (CommandError, OutcomeUnknown) as problem:
            logger.debug("unsubscribing from %s: %s", channel, problem)

    async def close(self) -> None:
        """Say goodbye and close; `run` then ends."""
        await self._socket.close(1000)

    def _receive(
        self, frame: bytes, deliver: Callable[[Delivery], None], notice: Callable[[Notice], None]
    ) -> None:
        try:
            event: AnyEvent = decode(frame)
        except ProtocolError as problem:
            # Once for each connection: a peer that sends nothing else must not fill the disk.
            self._garbage += 1
            logger.log(logging.WARNING if self._garbage == 1 else logging.DEBUG, "frame ignored: %s", problem)
            return
        if isinstance(event, Delivery):
            deliver(event)
        elif isinstance(event, HeartbeatAck):
            self.heartbeats.acknowledged(self._clock())
        elif isinstance(event, Unknown):
            logger.debug("event of an unknown type ignored: %.40s", event.type)
        else:
            waiting = self._answers.get(str(event.id))
            if waiting is not None:
                if not waiting.answer.done():
                    waiting.answer.set_result(event)
            elif isinstance(event, Unsubscribed) and event.id is not None:
                # A late answer, not news that a subscription is over: there may be a new one by now.
                logger.debug("late answer ignored: unsubscribed from %s", event.channel)
            elif isinstance(event, Error | Unsubscribed | Dropped):
                notice(event)

    async def _beat(self) -> None:
        beats = self.heartbeats
        while True:
            await asyncio.sleep(beats.next_event(self._clock()))
            now = self._clock()
            if beats.is_dead(now):
                self._died = Disconnected(NO_STATUS, f"no heartbeat_ack for {beats.allowed:g} s")
                return
            if beats.is_due(now):
                beats.sent(now)
                try:
                    # A peer that stopped reading blocks send(): that is silence too.
                    async with asyncio.timeout(beats.allowed - beats.silence(now)):
                        await self.send(self._heartbeat())
                except TimeoutError:
                    continue
                except ConnectionLost:
                    return

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(timestamp=utc_text(datetime.now(UTC)), metrics=self._measured())

    def _measured(self) -> dict[str, Any] | None:
        """Return what the owner's function measures, or nothing where it fails: the heart beats on."""
        if self._metrics is None:
            return None
        try:
            metrics = self._metrics()
            encode(Heartbeat(metrics=metrics))
        except Exception:
            if not self._unmeasured:
                # Once for each connection: it may fail with every beat.
                self._unmeasured = True
                logger.exception("heartbeat_metrics failed; the heartbeat goes without them")
            return None
        return metrics

    def _fail_waiting(self, ended: ArtcafeError | None) -> None:
        why = str(ended) if ended is not None else "the client was closed"
        for waiting in self._answers.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(ConnectionLost(waiting.command, why))


class _Waiting:
    """A command that waits for its answer."""

    __slots__ = ("answer", "command")

    def __init__(self, command: str) -> None:
        self.command = command
        self.answer: asyncio.Future[Event] = asyncio.get_running_loop().create_future()


def reason_of(closed: ConnectionClosed) -> Disconnected:
    """Return the typed reason of a closed socket."""
    if closed.rcvd is not None:
        return disconnected(closed.rcvd.code, closed.rcvd.reason)
    if closed.sent is not None:
        # We failed the connection, because of an oversized or malformed frame.
        return Disconnected(closed.sent.code, closed.sent.reason)
    return Disconnected(NO_STATUS, "the connection broke")


def utc_text(moment: datetime) -> str:
    """Return a UTC time as RFC 3339 with ``Z``."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _name(command: Command) -> str:
    return str(command.__struct_config__.tag)
