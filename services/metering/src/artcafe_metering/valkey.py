"""The connection to Valkey: a bounded pool for reading, and sessions for writing that never reconnect.

Writing needs the same connection from the first command to the confirmation that it is on disk. A connection
which reconnected meanwhile may talk to a server that crashed and came back without the writes, and its
confirmation would be of nothing; hence `WriteSession`, in which a lost connection ends the session.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from artcafe_common.errors import unavailable

logger = logging.getLogger(__name__)

WHAT = "usage store"
CONNECT_TIMEOUT_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 5.0
POOL_WAIT_SECONDS = 2.0
# For a read with a second try: clients, who wait for ten seconds, are told what is wrong well before.
READ_TIMEOUT_SECONDS = 6.0
# To wait for a connection, make one, and introduce oneself.
OPEN_TIMEOUT_SECONDS = POOL_WAIT_SECONDS + CONNECT_TIMEOUT_SECONDS + ANSWER_TIMEOUT_SECONDS
READERS_MAX = 16
_COMMANDS_PER_PIPELINE = 256

# Words, or a command that is encoded already.
Command = tuple[Any, ...] | bytes


class WriteSession:
    """One connection, as long as it lasts."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands at once and return their answers; one that was refused gives its `ResponseError`.

        Raises: ServiceError ``unavailable`` where the connection is lost, and ever after.
        """
        connection = self._connection
        answers: list[Any] = []
        try:
            # The library would connect again here by itself.
            if not connection.is_connected:
                raise unavailable(WHAT)
            packed = [
                command if isinstance(command, bytes) else b"".join(connection.pack_command(*command))
                for command in commands
            ]
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                await connection.send_packed_command(b"".join(packed), check_health=False)
                for _ in commands:
                    try:
                        answers.append(await connection.read_response())
                    except ResponseError as error:
                        answers.append(error)
        except (RedisError, OSError, TimeoutError) as error:
            await connection.disconnect(nowait=True)
            logger.warning("valkey_write_failed", extra={"error": type(error).__name__})
            raise unavailable(WHAT) from None
        except BaseException:
            # Cut off in the middle: what is still to be read belongs to nobody.
            await connection.disconnect(nowait=True)
            raise
        return answers


class Valkey:
    """The clients of one process."""

    def __init__(self, url: str, writers: int) -> None:
        options: dict[str, Any] = {
            "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
            # The library's clock is `wait_for`, which on Python 3.11 may swallow the end of a task. All that
            # is done with these has a clock of ours around it.
            "socket_timeout": None,
            "socket_keepalive": True,
            "timeout": POOL_WAIT_SECONDS,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "client_name": "artcafe-metering",
        }
        self._readers = BlockingConnectionPool.from_url(url, max_connections=READERS_MAX, **options)
        self._writers = BlockingConnectionPool.from_url(url, max_connections=writers, **options)
        self._client: Redis = Redis(connection_pool=self._readers)

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
        await self._readers.aclose()
        await self._writers.aclose()

    async def read(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Return the answers to commands that may be sent twice.

        Raises: ServiceError ``unavailable`` where Valkey is away or refuses.
        """
        listed = list(commands)
        answers: list[Any] = []
        for first in range(0, len(listed), _COMMANDS_PER_PIPELINE):
            answers += await self._read_some(listed[first : first + _COMMANDS_PER_PIPELINE])
        return answers

    async def read_at_once(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Return the answers to commands on keys of one tenant, between which nothing else happens.

        Raises: ServiceError ``unavailable`` where Valkey is away or refuses.
        """
        return await self._read_some(list(commands), at_once=True)

    async def _read_some(self, commands: list[tuple[Any, ...]], *, at_once: bool = False) -> list[Any]:
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                return await self._try_twice(commands, at_once=at_once)
        except (RedisError, OSError, TimeoutError) as error:
            logger.warning("valkey_read_failed", extra={"error": type(error).__name__})
            raise unavailable(WHAT) from None

    async def _try_twice(self, commands: list[tuple[Any, ...]], *, at_once: bool) -> list[Any]:
        try:
            return await self._pipeline(commands, at_once=at_once)
        except (RedisConnectionError, OSError):
            # A pooled connection may be one that a restarted server has forgotten.
            return await self._pipeline(commands, at_once=at_once)

    async def _pipeline(self, commands: list[tuple[Any, ...]], *, at_once: bool) -> list[Any]:
        async with self._client.pipeline(transaction=at_once) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[WriteSession]:
        """Lend a connection for one round of writes.

        Raises: ServiceError ``unavailable`` where none can be had.
        """
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_SECONDS):
                connection = await self._writers.get_connection()  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError) as error:
            logger.warning("valkey_connect_failed", extra={"error": type(error).__name__})
            raise unavailable(WHAT) from None
        try:
            yield WriteSession(connection)
        finally:
            await asyncio.shield(self._writers.release(connection))
