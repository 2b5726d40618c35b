"""What the tests of the shared library on a real NATS have in common."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from artcafe_common.bus import Bus
from artcafe_common.ids import new_ulid

PATIENCE_SECONDS = 30.0

_COMMAND_RE = re.compile(rb"^(CONNECT|PING|PONG|SUB|UNSUB|PUB|HPUB)\b[^\r]*", re.MULTILINE)


def subject() -> str:
    """Return a subject that no other test uses."""
    return f"test.{new_ulid()}"


async def until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until a condition holds; fail when it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Bus]:
    """Run a bus, closed at the end."""
    bus = await Bus.open(url, name="test")
    try:
        yield bus
    finally:
        await bus.close_gracefully()


class Recorder:
    """A TCP proxy before nats-server that writes down what the client says, in order."""

    def __init__(self) -> None:
        self.url = ""
        self._sent = bytearray()

    def commands(self) -> list[str]:
        """Return the client's commands after the handshake, without payloads."""
        lines = [match.group(0).decode() for match in _COMMAND_RE.finditer(bytes(self._sent))]
        # CONNECT and the PING behind it.
        return lines[2:]

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: bool) -> None:
        while data := await reader.read(65_536):
            if note:
                self._sent += data
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def recorded(url: str) -> AsyncIterator[Recorder]:
    """Run a recorder before a server."""
    recorder = Recorder()
    tasks: set[asyncio.Task[None]] = set()
    target = urlsplit(url)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(target.hostname, target.port)
        for passing in (
            recorder._pass_on(reader, server_writer, True),
            recorder._pass_on(server_reader, writer, False),
        ):
            tasks.add(asyncio.create_task(passing))

    proxy = await asyncio.start_server(connected, "127.0.0.1", 0)
    recorder.url = f"nats://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    try:
        yield recorder
    finally:
        proxy.close()
        await asyncio.wait(tasks, timeout=5)
