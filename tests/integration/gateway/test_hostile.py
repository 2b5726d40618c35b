"""Clients that mean harm, on the wire itself: nobody else notices, and nothing stays behind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import struct
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from artcafe_common.contracts.registry import Membership
from artcafe_common.errors import CloseCode
from artcafe_gateway import connection
from artcafe_gateway.listener import IDLE_FRAMES_PER_SECOND

GOOD = "/ws/agent/{}?challenge=t1&signature=good"
TEXT, BINARY, CLOSE, PING, PONG, MORE = 1, 2, 8, 9, 10, 0
PATIENCE_SECONDS = 30.0


class RawSocket:
    """A TCP connection that may send any bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.half_closed = False

    @classmethod
    async def connect(cls, port: int) -> RawSocket:
        """Open a connection and send nothing."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    @classmethod
    async def upgraded(cls, port: int, path: str, *headers: str) -> RawSocket:
        """Open a WebSocket and read up to the end of the answer's headers."""
        raw = await cls.connect(port)
        raw.writer.write(upgrade(path, *headers))
        head = await raw.head()
        assert head.startswith(b"HTTP/1.1 101"), head
        return raw

    async def head(self) -> bytes:
        """Read an HTTP head."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.reader.readuntil(b"\r\n\r\n")

    def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> None:
        """Send one masked frame."""
        self.writer.write(frame(opcode, payload, fin=fin, rsv=rsv))

    async def receive(self) -> tuple[int, bytes]:
        """Read one frame."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            if size == 126:
                [size] = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                [size] = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0x0F, await self.reader.readexactly(size)

    async def close_code(self) -> int | None:
        """Read to the end; return the code of the close frame, None where there was none."""
        code = None
        try:
            while True:
                opcode, payload = await self.receive()
                if opcode == CLOSE:
                    code = int.from_bytes(payload[:2])
                    if not self.half_closed:
                        self.send(CLOSE, payload[:2])
        except (asyncio.IncompleteReadError, ConnectionError):
            return code
        finally:
            await self.end()

    async def end(self) -> None:
        """Close without a word."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def upgrade(path: str, *headers: str) -> bytes:
    """Return the request of a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: gateway",
        "Upgrade: websocket",
        *([] if any(h.startswith("Connection:") for h in headers) else ["Connection: Upgrade"]),
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def frame(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0) -> bytes:
    """Return a masked frame."""
    head = bytes([fin << 7 | rsv << 4 | opcode])
    size = len(payload)
    if size <= 125:
        head += bytes([0x80 | size])
    elif size <= 0xFFFF:
        head += b"\xfe" + struct.pack("!H", size)
    else:
        head += b"\xff" + struct.pack("!Q", size)
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([frame(MORE, b"x")], 1002),
        ([frame(TEXT, b"{", fin=False), frame(TEXT, b"}")], 1002),
        ([frame(TEXT, b"{}", rsv=4)], 1002),
        ([frame(TEXT, b"{}", rsv=1)], 1002),
        ([frame(PING, b"", fin=False)], 1002),
        ([frame(PING, b"x" * 126)], 1002),
        ([frame(3, b"")], 1002),
        ([frame(11, b"")], 1002),
        ([b"\x81\x02{}"], 1002),
        ([frame(CLOSE, b"\x03")], 1002),
        ([frame(CLOSE, b"\x03\xed")], 1002),
        ([frame(BINARY, b"{}")], 1003),
        ([frame(BINARY, b"{", fin=False)], 1003),
        ([frame(TEXT, b"\xff\xfe")], 1007),
        ([frame(TEXT, b"\xc3", fin=False), frame(MORE, b"\x28")], 1007),
        ([frame(CLOSE, b"\x03\xe8\xff\xfe")], 1007),
        ([b"\x81\xff" + struct.pack("!Q", 2**40) + b"mask"], 1009),
        ([frame(TEXT, b"x" * 40_000, fin=False), frame(MORE, b"x" * 40_000)], 1009),
    ],
)
async def test_what_breaks_the_protocol_is_closed_with_its_code(
    gateway: Any, frames: list[bytes], code: int
) -> None:
    """Each violation of RFC 6455 ends that socket, with the code the RFC has for it."""
    bystander = await gateway.agent("bystander")
    raw = await RawSocket.upgraded(gateway.ws_port, GOOD.format("mallory"))
    await raw.receive()
    for data in frames:
        raw.writer.write(data)
    assert await raw.close_code() == code
    await bystander.nothing()


async def test_control_frames_between_fragments_are_allowed(gateway: Any) -> None:
    """A ping in the middle of a fragmented message is answered, and the message still counts."""
    raw = await RawSocket.upgraded(gateway.ws_port, GOOD.format("alice"))
    await raw.receive()
    raw.send(TEXT, b'{"type":"ping",', fin=False)
    raw.send(PING, b"tick")
    raw.send(MORE, b"", fin=False)
    raw.send(MORE, b'"id":1}')
    assert await raw.receive() == (PONG, b"tick")
    opcode, payload = await raw.receive()
    assert opcode == TEXT and json.loads(payload)["id"] == 1
    await raw.end()


@pytest.mark.parametrize("path", [GOOD.format("alice"), "/ws/dashboard"])
@pytest.mark.parametrize("flood", [PING, PONG, MORE])
async def test_a_flood_of_frames_without_messages_is_closed(
    gateway: Any, path: str, flood: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sends nothing but pings, pongs or empty parts of a message is told to stop, and cut off if not."""
    # It is not this that ends it.
    monkeypatch.setattr(connection, "CLOSE_GRACE_SECONDS", 2 * PATIENCE_SECONDS)
    bystander = await gateway.agent("bystander")
    raw = await RawSocket.upgraded(gateway.ws_port, path)
    first = frame(TEXT, b"", fin=False) if flood == MORE else b""
    # In one piece, so that it comes within a second.
    raw.writer.write(first + frame(flood, b"", fin=flood != MORE) * (IDLE_FRAMES_PER_SECOND + 1))
    while (received := await raw.receive())[0] != CLOSE:
        assert received[0] in (TEXT, PONG)
    assert int.from_bytes(received[1][:2]) == CloseCode.RATE
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not raw.reader.at_eof():
                raw.writer.write(frame(PING, b"") * 1000)
                await raw.writer.drain()
                await asyncio.sleep(0)
    await bystander.nothing()


async def test_a_frame_over_the_limit_is_not_obeyed(gateway: Any) -> None:
    """What is too big is refused as a whole, though what it asks for is small."""
    reader = await gateway.agent("reader")
    await reader.subscribe("room")
    raw = await RawSocket.upgraded(gateway.ws_port, GOOD.format("mallory"))
    await raw.receive()
    padded = b'{"type":"publish","channel":"room","id":1,"data":1,"pad":"%b"}' % (b"x" * 500_000)
    raw.send(TEXT, padded)
    assert await raw.close_code() == 1009
    await reader.nothing()


@pytest.mark.parametrize("data", ["[" * 900 + "]" * 900, '{"a":' * 65 + "1" + "}" * 65, "1" + "0" * 5000])
async def test_json_that_not_everybody_can_read_is_refused(gateway: Any, data: str) -> None:
    """Nesting and numbers without end reach nobody, from agents and from dashboards."""
    reader, writer = await gateway.agent("reader"), await gateway.agent("writer")
    await reader.subscribe("room")
    person = await gateway.dashboard("u1")
    await writer.socket.send(f'{{"type":"publish","channel":"room","id":1,"data":{data}}}')
    await writer.expect("error", code="invalid_argument", id=1)
    await person.socket.send(f'{{"type":"publish_channel","channel_id":"room","id":1,"data":{data}}}')
    await person.expect("error", code="invalid_argument", id=1)
    await reader.nothing()


async def test_a_browser_that_keeps_alive_may_upgrade(gateway: Any) -> None:
    """Firefox names two tokens in ``Connection``."""
    raw = await RawSocket.upgraded(gateway.ws_port, GOOD.format("fox"), "Connection: keep-alive, Upgrade")
    opcode, payload = await raw.receive()
    assert opcode == TEXT and json.loads(payload)["type"] == "welcome"
    await raw.end()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"POST /ws/agent/a HTTP/1.1\r\n\r\n",
        b"GET /ws/agent/a\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /ws/agent/a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /ws/agent/a HTTP/1.1\r\n broken\r\n\r\n",
        b"GET /ws/agent/a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_upgrade_is_refused(gateway: Any, request_bytes: bytes) -> None:
    """Broken requests get an HTTP error, and the gateway goes on."""
    raw = await RawSocket.connect(gateway.ws_port)
    raw.writer.write(request_bytes)
    assert (await raw.head()).startswith(b"HTTP/1.1 4")
    await raw.end()
    await (await gateway.agent("alice")).nothing()


@pytest.mark.parametrize("header", ["Authorization: Ticket \xff\xfe", "X-Tenant-Id: \xff", "X-Real-Ip: \xff"])
async def test_headers_that_are_not_ascii_are_not_believed(
    gateway: Any, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Stray bytes in a header are neither passed on nor a bug to be logged."""
    raw = await RawSocket.upgraded(gateway.ws_port, "/ws/agent/mallory", header)
    assert await raw.close_code() == 4500
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_flood_of_violations_is_no_flood_of_logs(
    gateway: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Strangers cannot make this server write a line each time."""
    caplog.clear()
    for number in range(30):
        raw = await RawSocket.upgraded(gateway.ws_port, "/ws/agent/mallory")
        raw.writer.write(frame(3, b"x") if number % 2 else b"\x81\x02{}")
        await raw.close_code()
    assert len([record for record in caplog.records if record.levelno >= 20]) == 0, caplog.text


async def test_slow_handshakes_do_not_keep_others_out(gateway: Any) -> None:
    """Connections that send a byte now and then are ended after five seconds; others come in meanwhile."""
    slow = [await RawSocket.connect(gateway.ws_port) for _ in range(100)]
    for raw in slow:
        raw.writer.write(b"GET /ws/agent/a HTTP/1.1\r\n")
    alice = await gateway.agent("alice")
    await alice.nothing()

    async def ended(raw: RawSocket) -> None:
        with_bytes = asyncio.create_task(drip(raw))
        try:
            assert await raw.reader.read() == b""
        except ConnectionError:
            return
        finally:
            with_bytes.cancel()
            await raw.end()

    async def drip(raw: RawSocket) -> None:
        while True:
            raw.writer.write(b"X")
            await asyncio.sleep(0.5)

    async with asyncio.timeout(60):
        await asyncio.gather(*(ended(raw) for raw in slow))
    await alice.nothing()


async def test_an_endless_request_is_cut(gateway: Any) -> None:
    """A head that never ends is not read for ever."""
    raw = await RawSocket.connect(gateway.ws_port)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                raw.writer.write(b"X" * 10_000)
                await raw.writer.drain()
                if raw.reader.at_eof():
                    raise ConnectionResetError
                await asyncio.sleep(0.01)
    await raw.end()


async def test_half_open_sockets_end(start_gateway: Any, presence: Any) -> None:
    """A peer that vanished without a word is found by the ping that it does not answer."""
    gateway = await start_gateway(ping_interval=0.3, ping_timeout=0.5, heartbeat_timeout=2.0)
    raw = await RawSocket.upgraded(gateway.ws_port, GOOD.format("ghost"))
    silent = await RawSocket.upgraded(gateway.ws_port, f"/ws/dashboard?token={_member(gateway, 'ann')}")
    # It reads, so that TCP is fine, and says nothing.
    for each in (raw, silent):
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await each.reader.read(10_000)) != b""
            while await each.reader.read(10_000):
                continue
        await each.end()
    await presence.until("ghost", "offline")


async def test_a_client_that_closes_its_half_and_never_reads_ends(start_gateway: Any) -> None:
    """With the send buffer full and no reader the socket is cut all the same."""
    # Long enough for the writer, whose library answers pings in between.
    gateway = await start_gateway(ping_interval=1.0, ping_timeout=8.0)
    writer = await gateway.agent("writer")
    raw = await RawSocket.upgraded(gateway.ws_port, GOOD.format("stuck"))
    raw.send(TEXT, b'{"type":"subscribe","channel":"room","policy":"drop_newest"}')
    raw.send(PING, b"")
    while (await raw.receive())[0] != PONG:
        continue
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(300):
        await writer.send(type="publish", channel="room", data="x" * 30_000)
    await writer.nothing()
    raw.writer.write_eof()
    watcher = await gateway.agent("watcher")
    async with asyncio.timeout(60):
        while True:
            text = await _metrics(gateway)
            if 'artcafe_gateway_connections{kind="agent"} 2.0' in text:
                break
            await asyncio.sleep(0.2)
    await watcher.nothing()
    raw.writer.transport.abort()


def _member(gateway: Any, user_id: str) -> str:
    gateway.world.memberships[user_id] = [Membership(tenant_id="t1", role="owner")]
    token: str = gateway.world.token(user_id)
    return token


async def _metrics(gateway: Any) -> str:
    async with httpx.AsyncClient() as http:
        return (await http.get(f"{gateway.http_url}/metrics")).text


JSON: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
TYPES = [
    "heartbeat",
    "presence",
    "subscribe",
    "unsubscribe",
    "publish",
    "request",
    "reply",
    "ping",
    "subscribe_channel",
    "subscribe_topic_preview",
    "subscribe_agents",
    "subscribe_changes",
    "publish_channel",
    "refresh",
    "authenticate",
]
FIELDS = ["id", "channel", "subject", "channels", "channel_id", "data", "status", "metadata", "capabilities"]
FIELDS += ["policy", "since", "echo", "pattern", "patterns", "max_rate", "token", "timestamp", "metrics"]
FIELDS += ["where", "sample", "batch", "max_bytes", "kinds"]
NAMES = st.sampled_from(["room", "*", ">", "a.>", "tenant.t2.channel.x", "agents.presence.online", "..", ""])
COMMANDS = st.builds(
    lambda kind, fields: json.dumps({"type": kind, **fields}).encode(),
    st.sampled_from(TYPES) | st.text(max_size=10),
    st.dictionaries(st.sampled_from(FIELDS), JSON | NAMES | st.lists(NAMES, max_size=3), max_size=5),
)
HOSTILE = st.one_of(
    COMMANDS,
    JSON.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: text.encode(errors="surrogatepass")),
    st.builds(lambda text, cut: text[:cut], COMMANDS, st.integers(1, 60)),
)


@pytest.mark.parametrize("kind", ["agent", "dashboard"])
async def test_hostile_frames_never_crash_or_silence_a_socket(
    gateway: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Hundreds of frames of every sort: each socket answers on or is closed clearly, and no bug is logged."""
    bystander = await gateway.agent("bystander")
    await bystander.subscribe("quiet")
    frames: list[bytes] = []

    @settings(max_examples=300, database=None, suppress_health_check=list(HealthCheck))
    @given(HOSTILE)
    def collect(payload: bytes) -> None:
        frames.append(payload)

    await asyncio.to_thread(collect)
    random.Random(1).shuffle(frames)
    token = _member(gateway, "ann")
    path = GOOD.format("mallory") if kind == "agent" else f"/ws/dashboard?token={token}"
    raw = await RawSocket.upgraded(gateway.ws_port, path)
    for number, payload in enumerate(frames):
        raw.send(TEXT, payload)
        probe = json.dumps({"type": "ping", "id": f"probe{number}"}).encode()
        raw.send(TEXT, probe)
        while True:
            opcode, answer = await raw.receive()
            if opcode == CLOSE:
                code = int.from_bytes(answer[:2])
                assert code in (1007, 1012, 4004), (payload, code)
                raw.send(CLOSE, answer[:2])
                await raw.close_code()
                raw = await RawSocket.upgraded(gateway.ws_port, path)
                break
            event = json.loads(answer)
            assert event.get("code") != "internal", payload
            if event["type"] == "pong" and event.get("id") == f"probe{number}":
                break
    await raw.end()
    await bystander.nothing()
    failures = [r.getMessage() for r in caplog.records if r.levelname in ("ERROR", "CRITICAL")]
    assert failures == []


async def test_garbage_instead_of_frames_ends_only_its_own_socket(gateway: Any) -> None:
    """Random bytes after an upgrade never reach anybody else."""
    bystander = await gateway.agent("bystander")
    chance = random.Random(7)
    for _ in range(60):
        raw = await RawSocket.upgraded(gateway.ws_port, GOOD.format("mallory"))
        raw.writer.write(chance.randbytes(chance.randint(1, 400)))
        raw.writer.write_eof()
        raw.half_closed = True
        await raw.close_code()
    await bystander.nothing()
