"""Keep messages coming from a durable JetStream consumer that several replicas share.

One pull request is open at a time, for as many messages as there is room for. The library's own `fetch` is
not used: it cannot tell a quiet stream from a request that the server has lost (a restart, a consumer that
was deleted and made anew), and what arrives after it gave up waits unseen. Here the server sends heartbeats
while a request is open; when they stop, or the connection was lost, or the server says that the consumer is
gone, stream and consumer are made sure of again and a new request goes out from a new inbox.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from artcafe_common.bus import Bus
from artcafe_common.errors import ServiceError

logger = logging.getLogger(__name__)

EXPIRES_SECONDS = 20.0
HEARTBEAT_SECONDS = 1.0
HEARTBEATS_MISSED_MAX = 3.5
BYTES_MAX = 32 * 1024 * 1024
PAUSE_SECONDS = 0.25
PAUSE_SECONDS_MAX = 5.0
_NANOSECONDS = 1_000_000_000

_STATUS_HEARTBEAT = "100"
# The request is over and the next one may go out: nothing there, time is up, a limit was reached.
_STATUS_OVER = ("404", "408")
_CONFLICT = "409"
_CONFLICT_OVER = ("exceeded maxackpending", "message size exceeds maxbytes", "batch completed")

_encode = msgspec.json.Encoder().encode


class PullLostError(Exception):
    """The open request will bring nothing any more."""


class Pull:
    """A bounded queue that the server fills.

    `prepare` makes sure of the stream and the consumer; it is called at the start and after every trouble.
    """

    def __init__(
        self, bus: Bus, stream: str, consumer: str, prepare: Callable[[], Awaitable[None]], room: int
    ) -> None:
        self._bus = bus
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._prepare = prepare
        self._room = room
        self._queue: deque[Msg] = deque()
        self._filled = asyncio.Event()
        self._changed = asyncio.Event()
        self._wanted = 0
        self._heard_at = 0.0
        self._lost: str | None = None
        self._inbox = ""
        self.healthy = False
        self._back = asyncio.Event()
        bus.on_lost(lambda: self._lose("connection"))
        bus.on_back(self._back.set)

    async def run(self) -> None:
        """Keep pulling until cancelled."""
        pause = PAUSE_SECONDS
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await self._session()
            except (PullLostError, ServiceError, NatsError, TimeoutError, OSError) as error:
                logger.warning(
                    "pull_interrupted", extra={"error": type(error).__name__, "detail": str(error)[:200]}
                )
            finally:
                self.healthy = False
            if asyncio.get_running_loop().time() - started > 10 * PAUSE_SECONDS_MAX:
                pause = PAUSE_SECONDS
            self._back.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._back.wait()
            except TimeoutError:
                pause = min(2 * pause, PAUSE_SECONDS_MAX)

    def __len__(self) -> int:
        return len(self._queue)

    async def wait(self) -> None:
        """Wait until a message is there."""
        while not self._queue:
            self._filled.clear()
            await self._filled.wait()

    def take(self, most: int, bytes_most: int) -> list[Msg]:
        """Return messages that are there: at most so many, and so many bytes, but one in any case."""
        taken: list[Msg] = []
        size = 0
        while self._queue and len(taken) < most:
            size += len(self._queue[0].data)
            if taken and size > bytes_most:
                break
            taken.append(self._queue.popleft())
        self._changed.set()
        return taken

    def leave(self) -> list[Msg]:
        """Take what nobody has worked on yet, so that it can be given back."""
        left = list(self._queue)
        self._queue.clear()
        return left

    async def _session(self) -> None:
        if not self._bus.is_connected:
            raise PullLostError("not connected")
        self._lost = None
        await self._prepare()
        self._wanted = 0
        self._inbox = self._bus.new_inbox()
        subscription = await self._bus.subscribe(self._inbox, cb=self._accept)
        await self._bus.flush()
        try:
            while True:
                await self._until(lambda: len(self._queue) <= self._room // 2, watched=False)
                await self._ask(self._room - len(self._queue))
                self.healthy = True
                await self._until(lambda: self._wanted <= 0, watched=True)
        finally:
            self._inbox = ""
            if not self._bus.is_closed:
                await subscription.unsubscribe()

    async def _ask(self, number: int) -> None:
        request = {
            "batch": number,
            "max_bytes": BYTES_MAX,
            "expires": int(EXPIRES_SECONDS * _NANOSECONDS),
            "idle_heartbeat": int(HEARTBEAT_SECONDS * _NANOSECONDS),
        }
        self._wanted = number
        self._heard()
        await self._bus.publish(self._subject, _encode(request), reply=self._inbox)

    async def _until(self, reached: Callable[[], bool], *, watched: bool) -> None:
        """Wait for a condition; where `watched`, only as long as the server is heard."""
        loop = asyncio.get_running_loop()
        while not reached():
            if self._lost is not None:
                raise PullLostError(self._lost)
            silent_at = self._heard_at + HEARTBEAT_SECONDS * HEARTBEATS_MISSED_MAX
            if watched and loop.time() > silent_at:
                raise PullLostError("no heartbeat")
            self._changed.clear()
            try:
                async with asyncio.timeout_at(silent_at + 0.01 if watched else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _accept(self, message: Msg) -> None:
        if message.subject != self._inbox and not message.reply:
            return
        self._heard()
        status = (message.headers or {}).get("Status") if not message.data else None
        if status is None:
            self._queue.append(message)
            self._wanted -= 1
            self._filled.set()
            if self._wanted <= 0:
                self._changed.set()
        elif status != _STATUS_HEARTBEAT:
            self._end(status, (message.headers or {}).get("Description", ""))

    def _end(self, status: str, description: str) -> None:
        over = status in _STATUS_OVER or (
            status == _CONFLICT and description.lower().startswith(_CONFLICT_OVER)
        )
        if over:
            self._wanted = 0
            self._changed.set()
        else:
            # Consumer deleted, no responders, another leader, the server stops ...
            self._lose(f"{status} {description}")

    def _heard(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()

    def _lose(self, why: str) -> None:
        self._lost = why
        self._changed.set()
