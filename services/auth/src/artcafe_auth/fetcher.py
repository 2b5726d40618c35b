"""Fetch JSON documents of issuers: with limits on time and size, and no redirects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import aiohttp
import msgspec

DOCUMENT_BYTES_MAX = 512 * 1024
CONNECT_TIMEOUT_SECONDS = 3.0
TOTAL_TIMEOUT_SECONDS = 5.0


class FetchError(Exception):
    """A document could not be had; `reason` says in a word why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Fetcher(Protocol):
    """Gets JSON documents."""

    async def get(self, url: str) -> Any:
        """Return a decoded document. Raises: FetchError."""
        ...


class HttpFetcher:
    """`Fetcher` over HTTP; open it with `HttpFetcher.connect`."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @classmethod
    @asynccontextmanager
    async def connect(cls) -> AsyncIterator[HttpFetcher]:
        """Open the client."""
        timeout = aiohttp.ClientTimeout(total=TOTAL_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
        session = aiohttp.ClientSession(
            timeout=timeout,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            # A small answer must not unfold into a large one.
            auto_decompress=False,
            # Nothing that one issuer sets comes back to another.
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        async with session:
            yield cls(session)

    async def get(self, url: str) -> Any:
        """Return a decoded document. Raises: FetchError."""
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    raise FetchError(f"status {response.status}")
                body = await _bounded(response.content)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise FetchError(type(error).__name__) from None
        try:
            return msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise FetchError("not JSON") from None


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    chunks = bytearray()
    async for chunk in content.iter_any():
        chunks += chunk
        if len(chunks) > DOCUMENT_BYTES_MAX:
            raise FetchError("too large")
    return bytes(chunks)
