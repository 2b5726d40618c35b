"""Reading what NATS sends, however it comes in parts; no socket."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from nats.errors import ProtocolError, UnexpectedEOF

from artcafe_common.bus_wire import CONTROL_LINE_BYTES_MAX, Wire

MESSAGE = b"MSG a.b 7 5\r\nhe\r\no\r\n"
ANSWERED = b"MSG a.b 7 _INBOX.x 2\r\nhi\r\n"
HEADED = b"HMSG a.b 7 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"
OTHER = b"MSG c 8 2\r\nhi\r\n"
OTHER_HEADED = b"HMSG c 8 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"


class Stream:
    """The stream's protocol, which goes on hearing what nats-py waits for."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.heard.append(name)


class Raw:
    """The transport that is taken over."""

    def __init__(self) -> None:
        self.protocol: Any = Stream()
        self.written: list[bytes] = []
        self.reading = False

    def get_protocol(self) -> Any:
        """Return who reads now."""
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        """Let somebody else read."""
        self.protocol = protocol

    def resume_reading(self) -> None:
        """Go on."""
        self.reading = True

    def write(self, data: bytes) -> None:
        """Keep what is sent."""
        self.written.append(data)


class Taken:
    """A wire that has taken over a connection; `begun` was read by the stream before."""

    def __init__(self, begun: bytes = b"") -> None:
        self.got: list[tuple[bytes, bytes]] = []
        self.writable = 0
        self.raw = Raw()
        self.stream = self.raw.protocol
        self.direct = {b"7": lambda subject, payload: self.got.append((subject, payload))}
        self.wire = Wire(self.direct, self._on_writable)
        reader = asyncio.StreamReader()
        if begun:
            reader.feed_data(begun)
        self.wire.take_over(cast(asyncio.StreamWriter, Writer(self.raw)), reader)

    def _on_writable(self) -> None:
        self.writable += 1

    async def others(self) -> bytes:
        """Return what is there for nats-py; fails where nothing is."""
        async with asyncio.timeout(30):
            return await self.wire.others()


class Writer:
    """A stream's writer."""

    def __init__(self, transport: Raw) -> None:
        self.transport = transport


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_commands_are_found_however_they_are_cut(size: int) -> None:
    """Messages for handlers and everything else come whole and in order, whatever a read brings of them."""
    taken = Taken()
    rest = [b"PING\r\n", OTHER, b"-ERR 'x'\r\n", OTHER_HEADED]
    data = MESSAGE + rest[0] + ANSWERED + rest[1] + rest[2] + HEADED + rest[3] + MESSAGE
    for start in range(0, len(data), size):
        taken.wire.data_received(data[start : start + size])
    expected = [b"he\r\no", b"hi", b"hi", b"he\r\no"]
    assert taken.got == [(b"a.b", payload) for payload in expected]
    assert await taken.others() == b"".join(rest)


async def test_what_the_stream_has_read_already_comes_first() -> None:
    """What came together with the end of the handshake is not lost."""
    taken = Taken(MESSAGE[:9])
    taken.wire.data_received(MESSAGE[9:] + OTHER)
    assert taken.got == [(b"a.b", b"he\r\no")]
    assert await taken.others() == OTHER
    assert taken.raw.reading


async def test_messages_of_a_subscription_that_has_ended_go_to_the_parser() -> None:
    """A number without a handler is nats-py's business."""
    taken = Taken()
    del taken.direct[b"7"]
    taken.wire.data_received(MESSAGE)
    assert taken.got == []
    assert await taken.others() == MESSAGE


@pytest.mark.parametrize(
    "nonsense",
    [
        b"MSG a.b\r\n",
        b"MSG a.b 7 many\r\n",
        b"HMSG 7\r\n",
        b"MSG \r\n",
        b"x" * (CONTROL_LINE_BYTES_MAX + 1),
    ],
)
async def test_nonsense_ends_the_connection(nonsense: bytes) -> None:
    """Where the next command begins is not known any more: it is a protocol error, after what was good."""
    taken = Taken()
    taken.wire.data_received(OTHER + nonsense)
    assert await taken.others() == OTHER
    with pytest.raises(ProtocolError):
        await taken.others()


async def test_the_end_is_told_after_all_that_came_before() -> None:
    """What was read before the connection ended is still handed over, and the stream hears of the end."""
    taken = Taken()
    taken.wire.data_received(OTHER)
    taken.wire.eof_received()
    taken.wire.connection_lost(None)
    assert await taken.others() == OTHER
    with pytest.raises(UnexpectedEOF):
        await taken.others()
    assert taken.stream.heard == ["eof_received", "connection_lost"]


async def test_a_lost_connection_is_told_with_its_reason() -> None:
    """The error of the socket is what the reader gets."""
    taken = Taken()
    taken.wire.connection_lost(ConnectionResetError("gone"))
    with pytest.raises(ConnectionResetError):
        await taken.others()


async def test_a_full_socket_is_known_and_its_room_told() -> None:
    """Whoever writes learns when the server does not read, and when it has caught up; so does the stream."""
    taken = Taken()
    full = []
    for change in (taken.wire.pause_writing, taken.wire.resume_writing):
        change()
        full.append(taken.wire.full)
    assert full == [True, False]
    assert taken.writable == 1
    assert taken.stream.heard == ["pause_writing", "resume_writing"]


async def test_the_end_of_a_read_comes_after_its_messages_and_before_anything_else() -> None:
    """What messages of one read have in common is done once, in the turn that brought them."""
    taken = Taken()
    order: list[bytes] = []

    def handler(subject: bytes, payload: bytes) -> None:
        if not order:
            taken.wire.at_end_of_read(lambda: order.append(b"end"))
        order.append(payload)

    taken.direct[b"7"] = handler
    taken.wire.data_received(MESSAGE + ANSWERED)
    assert order == [b"he\r\no", b"hi", b"end"]
    taken.wire.at_end_of_read(lambda: order.append(b"soon"))
    await asyncio.sleep(0)
    assert order[3:] == [b"soon"]


async def test_a_handler_that_raises_loses_its_message_alone(caplog: pytest.LogCaptureFixture) -> None:
    """The next message is handed over, and the fault is logged."""
    taken = Taken()
    good = taken.direct[b"7"]

    def bad(subject: bytes, payload: bytes) -> None:
        taken.direct[b"7"] = good
        raise ValueError("a bug")

    taken.direct[b"7"] = bad
    taken.wire.data_received(MESSAGE + ANSWERED)
    assert taken.got == [(b"a.b", b"hi")]
    assert "direct_handler_failed" in caplog.text
