"""The HTTP server on real sockets: limits, slow clients, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from artcafe_common.http import app as http_app
from artcafe_common.http import server
from artcafe_common.http.server import serve_http
from artcafe_common.listening import listening_socket

from .http_support import TOKEN, demo_app, worked_on


class Running:
    """A server that a test talks to."""

    def __init__(self, port: int, stop: asyncio.Event, task: asyncio.Task[None]) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.stop = stop
        self.task = task

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def exchange(self, request: bytes) -> bytes:
        """Send bytes and return all that comes until the server closes."""
        reader, writer = await self.connect()
        writer.write(request)
        try:
            async with asyncio.timeout(30):
                return await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def _serving() -> AsyncIterator[Running]:
    bound = listening_socket("127.0.0.1", 0)
    port = bound.getsockname()[1]
    stop = asyncio.Event()
    task = asyncio.create_task(serve_http(demo_app().asgi, bound, stop))
    running = Running(port, stop, task)
    try:
        # It listens once it serves.
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await running.connect()
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)
        writer.close()
        await writer.wait_closed()
        yield running
    finally:
        stop.set()
        await task


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    """A server that runs."""
    async with _serving() as server:
        yield server


async def test_requests_are_served_on_one_connection(running: Running) -> None:
    """A connection is kept for further requests."""
    async with httpx.AsyncClient(base_url=running.url, headers=TOKEN) as client:
        for _ in range(3):
            assert (await client.get("/api/v1/things/x")).json()["tenant_id"] == "t1"
        response = await client.get("/api/v1/things/x", headers={"Connection": "close"})
        assert response.headers["connection"] == "close"
        assert "server" not in response.headers


async def test_refused_body_does_not_spoil_the_answer(running: Running) -> None:
    """Whoever sends too much gets the answer that says so."""
    async with httpx.AsyncClient(base_url=running.url, headers=TOKEN) as client:
        response = await client.post("/api/v1/things", content=b" " * 1_100_000)
        assert response.status_code == 400
        assert response.json()["detail"] == "body: larger than 1048576 bytes"
        assert (await client.get("/api/v1/things/x")).status_code == 200


async def test_head_has_no_body(running: Running) -> None:
    """HEAD is answered with headers alone, and the connection goes on."""
    answer = await running.exchange(
        b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n"
        b"HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b"up" not in answer


async def test_great_headers_are_refused(running: Running) -> None:
    """Headers are bounded."""
    for name in (b"X-Great: ", b"X-Many: 1\r\n" * 20_000):
        request = b"GET /health HTTP/1.1\r\nHost: x\r\n" + name + b"x" * 100_000
        assert (await running.exchange(request)).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused(
    running: Running, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes that are no request, or a request of two lengths, get an error or nothing, and no log line."""
    answer = await running.exchange(request_bytes + b"\r\n\r\n")
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 505"))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_slow_head_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends its request's head byte by byte gives up its place after a time."""
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.4)
    async with _serving() as running:
        reader, writer = await running.connect()
        started = time.monotonic()
        try:
            for byte in b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"x" * 1_000:
                writer.write(bytes([byte]))
                await writer.drain()
                if reader.at_eof():
                    break
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        assert time.monotonic() - started < 20
        writer.close()


async def test_long_work_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on idle connections does not end a request that is being worked on."""
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.3)
    async with _serving() as running:
        # The request is there when the server accepts: the connection is idle at no time.
        with socket.create_connection(("127.0.0.1", running.port)) as sending:
            sending.sendall(b"GET /api/v1/slow/900 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            reader, writer = await asyncio.open_connection(sock=sending)
            assert b'"name":"done"' in await reader.read()
            writer.close()


def test_connections_are_kept_longer_than_the_edge_keeps_them() -> None:
    """The edge closes unused connections after 60 s, so that it never meets one that is being closed here."""
    assert server.READ_TIMEOUT_SECONDS > server.KEEP_ALIVE_SECONDS > 60


async def test_stop_answers_what_is_in_flight() -> None:
    """A request that is being worked on is answered before the server is gone."""
    async with _serving() as running, httpx.AsyncClient(base_url=running.url) as client:
        asking = asyncio.create_task(client.get("/api/v1/slow/500"))
        await worked_on(500)
        running.stop.set()
        assert (await asking).json()["name"] == "done"
        await asyncio.wait_for(running.task, 30)


async def test_stop_does_not_wait_for_idle_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that nobody uses do not hold up the end."""
    monkeypatch.setattr(server, "GRACE_SECONDS", 60)
    async with _serving() as running, httpx.AsyncClient(base_url=running.url) as client:
        await client.get("/health")
        started = time.monotonic()
        running.stop.set()
        await running.task
        assert time.monotonic() - started < 30


@pytest.mark.parametrize("rounds", range(12))
async def test_stop_leaves_nobody_without_an_end(rounds: int) -> None:
    """Whoever connects while the port is being closed, after some rounds of the loop, is not left to wait."""
    async with _serving() as running:
        gc.disable()  # which ends, at some time, what nobody holds
        try:
            running.stop.set()
            for _ in range(rounds):
                await asyncio.sleep(0)
            with contextlib.suppress(ConnectionError), _asking(running.port) as client:
                await running.task
                while await asyncio.to_thread(client.recv, 65_536):
                    pass
        finally:
            gc.enable()


def _asking(port: int) -> socket.socket:
    """Connect and ask at once, without a round of the loop."""
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return client


async def test_stop_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that takes too long does not keep the process."""
    monkeypatch.setattr(server, "GRACE_SECONDS", 0.5)
    async with _serving() as running, httpx.AsyncClient(base_url=running.url) as client:
        asking = asyncio.create_task(client.get("/api/v1/slow/20000"))
        await worked_on(20_000)
        started = time.monotonic()
        running.stop.set()
        await running.task
        assert time.monotonic() - started < 10
        with contextlib.suppress(httpx.HTTPError):
            await asking


async def test_stop_is_bounded_where_a_client_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks for much and reads nothing does not keep the process either."""
    monkeypatch.setattr(server, "GRACE_SECONDS", 0.5)
    async with _serving() as running:
        _, writer = await running.connect()
        writer.write(b"GET /api/v1/endless HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.3)
        started = time.monotonic()
        running.stop.set()
        await running.task
        assert time.monotonic() - started < 10
        writer.transport.abort()
        # Until the server's side has noticed.
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("connection", [b"Upgrade, HTTP2-Settings", b"upgrade", b"close"])
async def test_nobody_changes_to_http_2(running: Running, connection: bytes) -> None:
    """Whoever asks for HTTP/2 is answered in HTTP/1, and cannot get past an edge to routes that it hides."""
    answer = await running.exchange(
        b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: " + connection + b"\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
        b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 101" not in answer


async def test_http_2_from_the_start_is_refused(running: Running) -> None:
    """HTTP/2 without a change is not served either."""
    answer = await running.exchange(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    assert answer.startswith(b"HTTP/1.1 505")


@pytest.mark.parametrize("path", [b"/api/v1/things", b"/health", b"/api/v1/nowhere"])
async def test_slow_body_is_cut(monkeypatch: pytest.MonkeyPatch, path: bytes) -> None:
    """A client that sends a body byte by byte gives up its place after a time, however steadily it does."""
    monkeypatch.setattr(http_app, "BODY_TIMEOUT_SECONDS", 0.4)
    token = f"Authorization: {TOKEN['Authorization']}\r\n".encode()
    async with _serving() as running:
        reader, writer = await running.connect()
        writer.write(
            b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + token + b"Content-Length: 100000\r\n\r\n"
        )
        answering = asyncio.create_task(reader.read())
        try:
            async with asyncio.timeout(20):
                while not answering.done():
                    writer.write(b" ")
                    await asyncio.sleep(0.05)
        finally:
            writer.close()
        assert (await answering).startswith(b"HTTP/1.1 4")


async def test_websocket_is_refused(running: Running) -> None:
    """Sockets are not for this server."""
    answer = await running.exchange(
        b"GET /ws/agent/a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 403")


def test_port_that_is_taken_is_an_error_at_once() -> None:
    """A service whose port is taken says so when it starts."""
    with listening_socket("127.0.0.1", 0) as first:
        first.listen()
        with pytest.raises(OSError) as caught:
            listening_socket("127.0.0.1", first.getsockname()[1])
        assert caught.value.errno == errno.EADDRINUSE


def test_workers_share_a_port() -> None:
    """Several processes may listen on one port where they are asked to."""
    with (
        listening_socket("127.0.0.1", 0, shared=True) as first,
        listening_socket("127.0.0.1", first.getsockname()[1], shared=True) as second,
    ):
        first.listen()
        second.listen()
        assert first.getsockname() == second.getsockname()


def test_ipv6_address_is_listened_on() -> None:
    """An address with colons is one of IPv6."""
    with listening_socket("::1", 0) as bound:
        assert bound.getsockname()[0] == "::1"


async def test_server_writes_no_lines_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    """All that the server has to say goes through the process's logging."""
    async with _serving() as running, httpx.AsyncClient(base_url=running.url) as client:
        await client.get("/health")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
