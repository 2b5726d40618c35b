"""What the taps read from NATS, as the server writes it."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError

from artcafe_gateway.preview.tap_bus import TapBus, TapWire


class Rest:
    """Whoever rests."""

    def __init__(self) -> None:
        self.passed = 0


class Reader:
    """A connection without a server: what is fed, and what came of it."""

    def __init__(self) -> None:
        self.bus = TapBus()
        self.wire = TapWire(self.bus, self.bus._direct, lambda: None)
        self.got: list[tuple[bytes, bytes]] = []
        self.bus._direct[b"1"] = lambda subject, payload: self.got.append((subject, payload))

    def feed(self, *parts: bytes) -> bytes:
        """Read some bytes; returns what was not a message."""
        for part in parts:
            self.wire.data_received(part)
        others = b"".join(self.wire._others)
        self.wire._others.clear()
        return others


def msg(payload: bytes, subject: bytes = b"tenant.t.channel.c", number: int = 1) -> bytes:
    """Return a message as the server announces it."""
    return b"MSG %b %d %d\r\n%b\r\n" % (subject, number, len(payload), payload)


@pytest.fixture
def reader() -> Reader:
    """Give a reader."""
    return Reader()


def test_messages_go_to_their_handler_whole(reader: Reader) -> None:
    """With their subject and payload, whatever the payload looks like; all else is for the library."""
    tricky = b"{}\r\nMSG tenant.t2.channel.x 1 2\r\n{}\r\nPING\r\n"
    others = reader.feed(msg(b"one") + b"PING\r\n" + msg(tricky) + msg(b"other", number=2) + b"+OK\r\n")
    assert reader.got == [(b"tenant.t.channel.c", b"one"), (b"tenant.t.channel.c", tricky)]
    assert others == b"PING\r\n" + msg(b"other", number=2) + b"+OK\r\n"


def test_headers_and_reply_subjects_are_passed_over(reader: Reader) -> None:
    """A republished message of a durable channel has headers; its payload comes without them."""
    headers = b"NATS/1.0\r\nNats-Sequence: 7\r\n\r\n"
    total = len(headers) + 2
    reader.feed(b"HMSG tenant.t.channel.c 1 %d %d\r\n%b{}\r\n" % (len(headers), total, headers))
    reader.feed(b"HMSG tenant.t.channel.c 1 back %d %d\r\n%b{}\r\n" % (len(headers), total, headers))
    reader.feed(b"MSG tenant.t.channel.c 1 back 2\r\n{}\r\n")
    assert reader.got == [(b"tenant.t.channel.c", b"{}")] * 3


def test_what_rests_is_counted_and_not_handed_over(reader: Reader) -> None:
    """Under exactly the announcement that it was put to rest under, until it is looked at anew."""
    rest = Rest()
    reader.feed(msg(b"one"))
    reader.bus.rest(rest)
    reader.feed(msg(b"x" * 5000) * 100 + msg(b"two", b"tenant.t.channel.d") + msg(b"y"))
    assert rest.passed == 101
    assert [payload for _, payload in reader.got] == [b"one", b"two"]
    assert reader.bus.wake() == [rest]
    assert reader.bus.wake() == []
    reader.feed(msg(b"y"))
    assert reader.got[-1][1] == b"y"


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"a", b"b", b"t.a"]), st.binary(max_size=40) | st.sampled_from([b"x", b"x" * 11])
        ),
        max_size=30,
    ),
    st.lists(st.integers(1, 60), min_size=1, max_size=20),
    st.booleans(),
    st.booleans(),
)
def test_wherever_the_stream_is_cut_nothing_is_lost_or_counted_twice(
    messages: list[tuple[bytes, bytes]], cuts: list[int], rests: bool, talks: bool
) -> None:
    """Reads end anywhere in a message, and what each says is the same."""
    reader = Reader()
    rest = Rest()
    if rests:
        reader.feed(msg(b"", b"a"))
        reader.bus.rest(rest)
        reader.got.clear()
    between = b"PING\r\n" if talks else b""
    stream = b"".join([msg(payload, subject) + between for subject, payload in messages])
    others, at, turn = b"", 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        others += reader.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    resting = [m for m in messages if rests and m[0] == b"a"]
    assert rest.passed == len(resting)
    assert reader.got == [m for m in messages if m not in resting]
    assert others == between * len(messages)


def test_a_stream_that_cannot_be_understood_ends_the_connection(reader: Reader) -> None:
    """Nothing is guessed."""
    reader.feed(b"MSG tenant.t.channel.c 1 x\r\n")
    assert isinstance(reader.wire._error, ProtocolError)


def test_the_time_that_reading_takes_is_known(reader: Reader) -> None:
    """It is what previews may have a share of."""
    reader.feed(msg(b"one") * 1000)
    assert reader.bus.busy_seconds > 0


def test_a_handler_that_fails_loses_only_its_message(
    reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the next message comes."""
    seen = Counter[bytes]()

    def handler(_: bytes, payload: bytes) -> None:
        seen[payload] += 1
        if payload == b"bad":
            raise ValueError

    reader.bus._direct[b"1"] = handler
    reader.feed(msg(b"bad") + msg(b"good"))
    assert seen == {b"bad": 1, b"good": 1}
    assert [record.message for record in caplog.records] == ["direct_handler_failed"]


async def test_losing_the_tap_says_nothing_of_the_platform(reader: Reader) -> None:
    """Whether NATS is there is known by the agents' connection alone."""
    told: list[str] = []
    reader.bus.on_lost(lambda: told.append("lost"))
    reader.bus.on_back(lambda: told.append("back"))
    await asyncio.gather(reader.bus._lost(), reader.bus._back())
    assert told == []
