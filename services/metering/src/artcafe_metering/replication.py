"""Valkey's replication protocol, as far as backups take it: receive a snapshot, and give one.

A backup has to be of one moment: a counter from before a batch beside a window from after it would lose the
batch, the other way round it would count twice. Keys read one by one (SCAN and DUMP) are not of one moment
while batches come in; what a replica gets at its first synchronisation is. Nor does this need the server's
disk, which in containers is another one. So `receive_snapshot` synchronises like a new replica and ends
there, and `giving_snapshot` is the primary of which a server becomes a replica until it has everything.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO

from redis.connection import SSLConnection, parse_url

CHUNK_BYTES = 1024 * 1024
ANSWER_SECONDS = 60.0
KEEP_ALIVE_SECONDS = 5.0
_MARK_BYTES = 40
_PING = b"*1\r\n$4\r\nPING\r\n"


class ReplicationError(Exception):
    """The server does not synchronise, or broke off."""


# Gets how many bytes have come, and how many there will be where that is known.
Progress = Callable[[int, int | None], None]


async def receive_snapshot(url: str, into: BinaryIO, progress: Progress) -> int:
    """Write a snapshot of a server (in its RDB format) into a file and return its size.

    Raises: ReplicationError, OSError.
    """
    reader, writer, options = await _connect(url)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            if password := options.get("password"):
                user = [options["username"]] if options.get("username") else []
                await _ask(reader, writer, "AUTH", *user, password)
            # The server ends the connection behind the snapshot, and need not write it to its disk first.
            await _ask(reader, writer, "REPLCONF", "rdb-only", "1")
            await _ask(reader, writer, "REPLCONF", "capa", "eof")
            writer.write(_command("SYNC"))
            await writer.drain()
        size = await _receive(reader, into, progress)
    except (asyncio.IncompleteReadError, TimeoutError, asyncio.LimitOverrunError):
        raise ReplicationError("the server broke off") from None
    finally:
        writer.close()
    return size


@asynccontextmanager
async def giving_snapshot(file: Path, url: str, host: str | None) -> AsyncIterator[tuple[str, int]]:
    """Offer a snapshot to the server at `url` alone; yield the address at which that can reach us.

    `host` is our name as the server sees it, where it is not the address from which we reach the server.
    """
    _, writer, _ = await _connect(url)
    ours, theirs = writer.get_extra_info("sockname")[0], writer.get_extra_info("peername")[0]
    writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if writer.get_extra_info("peername")[0] == theirs:
                await _give(reader, writer, file)
        except (OSError, ValueError, asyncio.IncompleteReadError):
            # It has what it wants, or comes again.
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, None if host else ours, 0)
    try:
        yield host or ours, server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _give(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, file: Path) -> None:
    while True:
        words = await _read_command(reader)
        match words[0].upper():
            case b"PING":
                writer.write(b"+PONG\r\n")
            case b"PSYNC":
                break
            case b"SYNC":
                raise ValueError
            case _:
                writer.write(b"+OK\r\n")
        await writer.drain()
    size = await asyncio.to_thread(lambda: file.stat().st_size)
    writer.write(b"+FULLRESYNC %b 0\r\n$%d\r\n" % (secrets.token_hex(20).encode(), size))
    with file.open("rb") as snapshot:
        while chunk := await asyncio.to_thread(snapshot.read, CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    # What a primary without writes sends; reading goes on so that an end is noticed.
    while True:
        writer.write(_PING)
        await writer.drain()
        try:
            async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                while await reader.read(CHUNK_BYTES):
                    pass
                return
        except TimeoutError:
            continue


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, dict[str, Any]]:
    options: dict[str, Any] = dict(parse_url(url))  # type: ignore[no-untyped-call]
    secure = options.get("connection_class") is SSLConnection
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs")) if secure else None
    async with asyncio.timeout(ANSWER_SECONDS):
        reader, writer = await asyncio.open_connection(
            options.get("host", "localhost"), options.get("port", 6379), ssl=context, limit=CHUNK_BYTES
        )
    return reader, writer, options


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *words: str) -> None:
    writer.write(_command(*words))
    await writer.drain()
    answer = await reader.readline()
    if not answer.startswith(b"+"):
        # Without what was sent: there is a password in it.
        raise ReplicationError(f"{words[0]}: {answer.decode(errors='replace').strip()[:200]}")


async def _receive(reader: asyncio.StreamReader, into: BinaryIO, progress: Progress) -> int:
    head = b"\n"
    while head == b"\n":
        # Empty lines while the snapshot is being prepared.
        async with asyncio.timeout(ANSWER_SECONDS):
            head = await reader.readline()
    if not head.startswith(b"$"):
        raise ReplicationError(f"SYNC: {head.decode(errors='replace').strip()[:200]}")
    if head.startswith(b"$EOF:"):
        return await _receive_to_mark(reader, into, head[5:].strip(), progress)
    size = left = int(head[1:])
    while left:
        chunk = await _chunk(reader, min(CHUNK_BYTES, left))
        await asyncio.to_thread(into.write, chunk)
        left -= len(chunk)
        progress(size - left, size)
    return size


async def _receive_to_mark(
    reader: asyncio.StreamReader, into: BinaryIO, mark: bytes, progress: Progress
) -> int:
    size, held = 0, b""
    while held[-_MARK_BYTES:] != mark:
        held += await _chunk(reader, CHUNK_BYTES)
        ready = held[:-_MARK_BYTES]
        await asyncio.to_thread(into.write, ready)
        size += len(ready)
        held = held[len(ready) :]
        progress(size, None)
    return size


async def _chunk(reader: asyncio.StreamReader, most: int) -> bytes:
    async with asyncio.timeout(ANSWER_SECONDS):
        chunk = await reader.read(most)
    if not chunk:
        raise ReplicationError("the server broke off")
    return chunk


async def _read_command(reader: asyncio.StreamReader) -> list[bytes]:
    line = await reader.readuntil(b"\r\n")
    if not line.startswith(b"*"):
        return line.split() or [b""]
    words = []
    for _ in range(int(line[1:])):
        size = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words


def _command(*words: str) -> bytes:
    parts = [b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in words]
    return b"*%d\r\n%b" % (len(words), b"".join(parts))
