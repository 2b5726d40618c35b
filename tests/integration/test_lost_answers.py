"""Conditional writes whose answer is lost: sent again, they find done what they did themselves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from artcafe_auth.store import CHALLENGES, DynamoOneTimeStore, OneTime
from artcafe_common.clock import SystemClock
from artcafe_common.dynamo import Dynamo
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_devstack.servers import AwsEndpoint
from artcafe_gateway.store import CONNECTIONS, ConnectionStore, Holder


class LossyStore:
    """The store as it is reached over a network that loses one answer to the operation in `loses`."""

    def __init__(self, store_url: str) -> None:
        self._store = urlsplit(store_url)
        self.loses = b""
        self.lost = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one request on, and its answer back or not."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            size = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
            body = await reader.readexactly(size)
            answer = await self._ask(head.removesuffix(b"\r\n") + b"Connection: close\r\n\r\n" + body)
            if self.loses and self.loses in head:
                self.loses = b""
                self.lost += 1
            else:
                writer.write(answer)
                await writer.drain()
        writer.close()

    async def _ask(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self._store.hostname, self._store.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer


@asynccontextmanager
async def _lossy(aws: AwsEndpoint) -> AsyncIterator[tuple[Dynamo, LossyStore]]:
    lossy = LossyStore(aws.url)
    async with await asyncio.start_server(lossy.serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Dynamo.connect(region="us-east-1", endpoint_url=url, prefix="test-") as dynamo:
            await dynamo.create_tables([CHALLENGES, CONNECTIONS])
            yield dynamo, lossy


async def test_challenge_that_may_have_been_taken_is_not_called_bad(aws_environment: AwsEndpoint) -> None:
    """Whoever signed rightly is asked to come again; a challenge that was used before is still refused."""
    async with _lossy(aws_environment) as (dynamo, lossy):
        store = DynamoOneTimeStore(dynamo)
        record = OneTime("t1", "a1", 2**40)
        await store.add("challenge", "lost", record)
        lossy.loses = b"DeleteItem"
        with pytest.raises(ServiceError) as caught:
            await store.take("challenge", "lost")
        assert (caught.value.code, lossy.lost) == (ErrorCode.UNAVAILABLE, 1)
        await store.add("challenge", "fresh", record)
        assert await store.take("challenge", "fresh") == record
        assert await store.take("challenge", "fresh") is None


async def test_newest_connection_knows_whom_it_replaced(aws_environment: AwsEndpoint) -> None:
    """The connection before it, at another gateway, is named, or nobody would close it."""
    async with _lossy(aws_environment) as (dynamo, lossy):
        one = ConnectionStore(dynamo, "gateway-1#1", SystemClock())
        two = ConnectionStore(dynamo, "gateway-2#1", SystemClock())
        first = await one.acquire("t1", "lossy", "c1", None, "enterprise")
        lossy.loses = b"PutItem"
        acquired = await two.acquire("t1", "lossy", "c2", None, "enterprise")
        assert lossy.lost == 1
        assert acquired.replaced == Holder("gateway-1#1", "c1")
        assert acquired.generation > first.generation
        assert await two.holder("t1", "lossy") == Holder("gateway-2#1", "c2")


async def test_connection_that_was_released_is_known_to_be(aws_environment: AwsEndpoint) -> None:
    """Its end is this gateway's to announce; that of a connection which was replaced is not."""
    async with _lossy(aws_environment) as (dynamo, lossy):
        store = ConnectionStore(dynamo, "gateway-1#1", SystemClock())
        await store.acquire("t1", "leaver", "c1", None, "enterprise")
        lossy.loses = b"UpdateItem"
        assert await store.release("t1", "leaver", "c1", counted=False)
        assert lossy.lost == 1
        assert not await store.release("t1", "leaver", "c1", counted=False)
        await store.acquire("t1", "leaver", "c2", None, "enterprise")
        assert not await store.release("t1", "leaver", "c1", counted=False)
