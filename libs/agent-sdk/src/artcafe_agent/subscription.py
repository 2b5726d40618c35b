"""What a subscriber holds: an async iterator over messages, with a bounded queue.

The socket is read at full speed whatever the subscriber does, because acknowledgements and signs of life
come the same way. So a subscriber that is slower than its channels loses messages here; which ones is its
`Overflow`, and it is always told: `Message.missed`, `Subscription.dropped` and one warning in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from artcafe_agent.errors import ConfigurationError, SlowConsumerError
from artcafe_agent.protocol import Delivery

logger = logging.getLogger("artcafe_agent.subscription")

DEFAULT_QUEUE_SIZE = 1000  # messages

Overflow = Literal["drop_oldest", "drop_newest", "fail"]


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a channel.

    Attributes:
        channel: The channel it was published to.
        subject: The same name, as agents of older versions expect it.
        data: Any JSON value.
        sender: The publishing agent's id, or ``user:...`` for a person.
        message_id: A ULID.
        timestamp: RFC 3339 UTC.
        seq: Position in a durable channel, else None.
        prev: Position of the message before it in a durable channel, else None.
        missed: How many messages were dropped right before this one, here or by the server.
    """

    channel: str
    subject: str
    data: Any
    sender: str
    message_id: str
    timestamp: str
    seq: int | None = None
    prev: int | None = None
    missed: int = 0


class Subscription:
    """Messages of one or more channels, as ``async for message in subscription``.

    The iteration ends when the subscription or its client is closed, and raises the reason when the server
    takes the subscription away or does not want the client back. What was received before is still given.

    Overflow, once ``queue_size`` messages wait to be read: ``drop_oldest`` (default) keeps the newest,
    ``drop_newest`` keeps the oldest, ``fail`` drops the newest and ends with `SlowConsumerError`.
    """

    def __init__(
        self,
        channels: tuple[str, ...],
        close: Callable[[Subscription], Awaitable[None]],
        queue_size: int = DEFAULT_QUEUE_SIZE,
        overflow: Overflow = "drop_oldest",
    ) -> None:
        if queue_size < 1:
            raise ConfigurationError("queue_size is at least 1")
        self.channels = channels
        self.dropped = 0
        self._close = close
        self._queue_size = queue_size
        self._overflow = overflow
        self._queue: deque[tuple[Delivery, int]] = deque()
        self._missed = 0  # dropped since the last message that was queued
        self._overflowing = False
        self._ended = False
        self._error: Exception | None = None
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Subscription {' '.join(self.channels)} waiting={len(self._queue)} dropped={self.dropped}>"

    @property
    def waiting(self) -> int:
        """How many messages wait to be read."""
        return len(self._queue)

    @property
    def ended(self) -> bool:
        """Whether no more messages will be received."""
        return self._ended

    def offer(self, delivery: Delivery) -> None:
        """Queue a message, or drop one as the overflow policy says; never waits."""
        if self._ended:
            return
        if len(self._queue) < self._queue_size:
            self._overflowing = False
        else:
            self._note_overflow()
            if self._overflow == "fail":
                self.end(SlowConsumerError(self.dropped))
                return
            if self._overflow == "drop_newest":
                self._missed += 1
                return
            self._drop_oldest()
        self._queue.append((delivery, self._missed))
        self._missed = 0
        self._wake.set()

    def note_gap(self, count: int) -> None:
        """Note that messages were dropped before they came here."""
        self.dropped += count
        self._missed += count

    def end(self, error: Exception | None = None) -> None:
        """Let readers finish with what is queued, then stop them, with an error if there is one."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake.set()

    async def close(self) -> None:
        """Unsubscribe. Closing twice is harmless."""
        if not self._ended:
            self.end()
            await self._close(self)

    async def get(self, timeout: float | None = None) -> Message:
        """Return the next message.

        Raises:
            StopAsyncIteration: The subscription was closed.
            TimeoutError: None came within ``timeout`` seconds.
        """
        async with asyncio.timeout(timeout):
            return await self.__anext__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while not self._queue:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        delivery, missed = self._queue.popleft()
        return _message(delivery, missed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _note_overflow(self) -> None:
        self.dropped += 1
        if not self._overflowing:
            # Once for each time the queue fills up, not for each message.
            self._overflowing = True
            logger.warning(
                "%s is read too slowly: %d messages wait, %s",
                " ".join(self.channels),
                len(self._queue),
                self._overflow,
            )

    def _drop_oldest(self) -> None:
        _, missed = self._queue.popleft()
        # The gap it leaves lies before whatever comes next.
        if self._queue:
            delivery, missed_before = self._queue[0]
            self._queue[0] = (delivery, missed_before + missed + 1)
        else:
            self._missed += missed + 1


def _message(delivery: Delivery, missed: int) -> Message:
    return Message(
        delivery.channel,
        delivery.subject or delivery.channel,
        delivery.data,
        delivery.sender,
        delivery.message_id,
        delivery.timestamp,
        delivery.seq,
        delivery.prev,
        missed,
    )
