"""What sessions of agents and of dashboards have in common: commands one after the other, in order.

Most commands are answered at once. One that has to wait (for registry, for NATS) makes those behind it wait
too, so that the order a client sees is the order it asked in; what piles up meanwhile is bounded by no longer
reading from the socket.

A client may publish and leave at once: what it sent before it left is still done, unless this server refused
to go on with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine

import msgspec

from artcafe_common.clock import Clock
from artcafe_common.contracts.registry import ChannelInfo
from artcafe_common.errors import CloseCode, ErrorCode, ServiceError
from artcafe_common.quota import TokenBucket
from artcafe_gateway import metrics
from artcafe_gateway.background import Background
from artcafe_gateway.connection import Connection
from artcafe_gateway.directory import Directory
from artcafe_gateway.frames import CommandId, error_event, undecodable

logger = logging.getLogger(__name__)

BACKLOG_PAUSE = 64
COMMANDS_PER_SECOND = 200.0
COMMANDS_BURST = 1000.0
# Names of channels that there are not: each is a question to registry, which is there for all tenants.
MISSES_PER_SECOND = 2.0
MISSES_BURST = 200.0

Work = Coroutine[None, None, None]


class Session:
    """One authenticated connection; subclasses say what a command does."""

    kind = "session"

    def __init__(
        self,
        connection: Connection,
        tenant_id: str,
        directory: Directory,
        clock: Clock,
        background: Background,
    ) -> None:
        self.connection = connection
        self.tenant_id = tenant_id
        self.clock = clock
        self.ended = False
        self.last_life = clock.monotonic()
        self._commands = TokenBucket(COMMANDS_PER_SECOND, COMMANDS_BURST, self.last_life)
        self._misses: TokenBucket | None = None
        self._directory = directory
        self._background = background
        # There only once something had to wait.
        self._backlog: deque[bytes] | None = None
        self._work: asyncio.Task[None] | None = None

    def handle(self, payload: bytes) -> Work | None:
        """Do what one frame says; returns the work where it must wait for something.

        Of a connection that is closing only a publish that `takes_publish` allows.

        Raises: ServiceError, msgspec.DecodeError.
        """
        raise NotImplementedError

    def begin(self, work: Work) -> None:
        """Do something before the client's next command."""
        self._work = self._background.spawn(work)
        self._work.add_done_callback(self._worked)

    def takes_publish(self, answered: bool) -> bool:
        """Tell whether a publish is accepted, where the connection is closing too.

        At a restart not one that an answer was asked for (`answered`): the client will try again.
        """
        end = self.connection.end
        return end is None or end == "client" or (end == "restart" and not answered)

    def on_text(self, payload: bytes) -> None:
        """Handle one text message, after those before it."""
        self.last_life = self.clock.monotonic()
        if self._work is not None:
            if self._backlog is None:
                self._backlog = deque()
            self._backlog.append(payload)
            if len(self._backlog) >= BACKLOG_PAUSE:
                self.connection.pause_reading()
            return
        self._run(payload)

    def on_alive(self) -> None:
        """Note a sign of life below the messages."""
        self.last_life = self.clock.monotonic()

    def on_closed(self, code: int) -> None:
        """Clean up after the socket has ended; subclasses extend it."""
        self.ended = True

    def refuse(self, error: ServiceError, id: CommandId = None) -> None:
        """Tell the client that a command failed."""
        metrics.COMMAND_ERRORS.labels(error.code).inc()
        self.connection.send(error_event(error, id))

    def spend_command(
        self, code: int = CloseCode.RATE, reason: str = "too many commands", *, count: float = 1.0
    ) -> None:
        """Take one command, or so many, from the connection's own rate; a client that floods is closed."""
        if not self._commands.take(self.clock.monotonic(), count):
            self.connection.close(code, reason)

    async def find_channel(self, channel_id: str, create_for: str | None = None) -> ChannelInfo:
        """Return a channel that the client has named; one that names what there is not is held back.

        Raises: ServiceError as `Directory.channel`, also ``resource_exhausted`` with a retry hint.
        """
        known = self._directory.known_channel(self.tenant_id, channel_id)
        if known is not None:
            return known
        now = self.clock.monotonic()
        if self._misses is not None and (wait := self._misses.wait(now)):
            raise ServiceError(
                ErrorCode.RESOURCE_EXHAUSTED, "too many channels that there are not", retry_after=wait
            )
        try:
            return await self._directory.channel(self.tenant_id, channel_id, create_for)
        except ServiceError as error:
            if error.code in (ErrorCode.NOT_FOUND, ErrorCode.RESOURCE_EXHAUSTED):
                # Most clients never miss.
                self._misses = self._misses or TokenBucket(MISSES_PER_SECOND, MISSES_BURST, now)
                self._misses.take(self.clock.monotonic())
            raise

    async def answer(self, work: Work, id: CommandId) -> None:
        """Await a command's work and tell the client if it fails."""
        try:
            await work
        except ServiceError as error:
            self.refuse(error, id)
        except Exception:
            logger.exception("command_failed", extra={"connection_id": self.connection.connection_id})
            self.refuse(ServiceError(ErrorCode.INTERNAL, "internal error"), id)

    def _run(self, payload: bytes) -> None:
        try:
            # Every UTF-8 fault must end here: passed on, it would end the sockets of all receivers.
            if not payload.isascii():
                payload.decode()
            work = self.handle(payload)
        except UnicodeDecodeError:
            self.connection.close(CloseCode.INVALID_TEXT, "not valid UTF-8")
            return
        except (msgspec.DecodeError, RecursionError) as problem:
            self.spend_command()
            self.refuse(*undecodable(payload, problem))
            return
        except ServiceError as error:
            self.refuse(error)
            return
        except Exception:
            logger.exception("command_failed", extra={"connection_id": self.connection.connection_id})
            self.refuse(ServiceError(ErrorCode.INTERNAL, "internal error"))
            return
        if work is not None:
            self.begin(work)

    def _worked(self, work: asyncio.Task[None]) -> None:
        self._work = None
        while self._backlog and self._work is None:
            self._run(self._backlog.popleft())
        if not self._backlog:
            self._backlog = None
        if self._backlog is None or len(self._backlog) < BACKLOG_PAUSE // 2:
            self.connection.resume_reading()
