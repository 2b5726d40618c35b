"""One socket's outbox and its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from gateway_fakes import FakePeer, FakeTransport, connect

from artcafe_common.errors import CloseCode
from artcafe_gateway import connection as connection_module
from artcafe_gateway import metrics, wire
from artcafe_gateway.connection import Connection
from artcafe_gateway.frames import event
from artcafe_gateway.outbox import Held, Policy

OUTBOX = 1000


class Channel:
    """Where held messages come from: it counts what was delivered after all."""

    def __init__(self, channel_id: str = "c") -> None:
        self.channel_id = channel_id
        self.counted = 0

    def delivered(self, connection: Connection, size: int) -> None:
        """Count."""
        self.counted += 1


def held(source: Channel, text: bytes, policy: Policy = "disconnect") -> Held:
    """Return a message whose frame takes 2 bytes more than its text, 4 beyond 125."""
    return Held(source, policy, wire.text_frame(text), len(text))


@pytest.fixture
async def pair() -> tuple[Connection, FakeTransport]:
    """Give a connection with an outbox of 1000 bytes, and its transport."""
    connection, transport = connect("alice", OUTBOX)
    connection.on_drop = lambda channel, count: event("dropped", channel=channel, count=count)
    return connection, transport


async def test_what_is_sent_is_written_at_once_while_the_socket_takes_it(pair: Any) -> None:
    """Nothing waits in the outbox of a client that reads."""
    connection, transport = pair
    connection.send(b'{"n":1}')
    assert transport.events == [{"n": 1}]


async def test_what_waits_is_sent_in_order_when_the_socket_has_room(pair: Any) -> None:
    """Messages and answers keep the order in which they came, and are counted only then."""
    connection, transport = pair
    channel = Channel()
    connection.pause()
    connection.hold(held(channel, b'{"n":1}'))
    connection.send(b'{"n":2}')
    connection.hold(held(channel, b'{"n":3}'))
    assert transport.events == []
    assert channel.counted == 0
    connection.resume()
    assert transport.events == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert channel.counted == 2


@pytest.mark.parametrize("room", [0, 3])
async def test_what_the_socket_does_not_take_is_left_to_the_transport(pair: Any, room: int) -> None:
    """A socket that takes a part of a frame, or nothing, loses not one byte of it."""
    connection, transport = pair
    transport.room = room
    connection.send(b'{"n":1}')
    assert transport.writes == [wire.text_frame(b'{"n":1}')[room:]]
    assert transport.events == [{"n": 1}]


async def test_what_waits_is_sent_together(pair: Any) -> None:
    """A socket that has room again is given many small messages with one write."""
    connection, transport = pair
    connection.pause()
    for number in range(4):
        connection.hold(held(Channel(), b'{"n":%d}' % number))
    connection.resume()
    assert transport.events == [{"n": number} for number in range(4)]
    assert len(transport.writes) == 1


async def test_a_socket_that_fills_up_again_stops_the_rest(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit when sending goes on waits for the next time, still in order."""
    monkeypatch.setattr(connection_module, "RESUME_BYTES", 1)
    connection, transport = pair
    for number in range(4):
        connection.pause()
        connection.hold(held(Channel(), b'{"n":%d}' % number))
    transport.on_write = connection.pause
    connection.resume()
    assert transport.events == [{"n": 0}]
    transport.on_write = lambda: None
    connection.resume()
    assert transport.events == [{"n": number} for number in range(4)]


async def test_policy_disconnect_closes_a_slow_consumer_beyond_its_outbox(pair: Any) -> None:
    """The outbox takes exactly its bound; one byte more closes with 4002, and nothing of it is sent."""
    connection, transport = pair
    connection.pause()
    connection.hold(held(Channel(), b"x" * 100))
    connection.hold(held(Channel(), b"x" * (OUTBOX - 102 - 4)))
    assert not connection.closing
    connection.hold(held(Channel(), b""))
    assert transport.close_codes == [CloseCode.SLOW_CONSUMER]
    connection.resume()
    assert transport.opcodes == [8]


async def test_policy_drop_newest_keeps_what_waits_and_tells(pair: Any) -> None:
    """What does not fit is dropped, counted by channel, and told once when the socket reads again."""
    connection, transport = pair
    kept, lost = Channel("kept"), Channel("lost")
    connection.pause()
    connection.hold(held(kept, b'{"k":"%b"}' % (b"x" * 900), "drop_newest"))
    connection.hold(held(lost, b"x" * 200, "drop_newest"))
    connection.hold(held(lost, b"x" * 200, "drop_newest"))
    assert not connection.closing
    connection.resume()
    assert [*transport.events[0]] == ["k"]
    assert transport.events[1:] == [{"type": "dropped", "channel": "lost", "count": 2}]
    assert (kept.counted, lost.counted) == (1, 0)
    connection.pause()
    connection.resume()
    assert len(transport.events) == 2


async def test_policy_drop_oldest_makes_room_from_its_own_kind_alone(pair: Any) -> None:
    """The oldest droppable batches go; answers and batches of other policies stay, in order."""
    connection, transport = pair
    connection.pause()
    connection.hold(held(Channel("firm"), b'{"n":1}'))
    connection.hold(held(Channel("loose"), b'{"n":2,"x":"%b"}' % (b"x" * 400), "drop_oldest"))
    connection.send(b'{"n":3}')
    connection.hold(held(Channel("loose"), b'{"n":4,"x":"%b"}' % (b"x" * 400), "drop_oldest"))
    connection.hold(held(Channel("loose"), b'{"n":5,"x":"%b"}' % (b"x" * 400), "drop_oldest"))
    connection.resume()
    assert [event.get("n") for event in transport.events] == [1, 3, 4, 5, None]
    assert transport.events[-1] == {"type": "dropped", "channel": "loose", "count": 1}


@pytest.mark.parametrize("policy", ["disconnect", "drop_newest", "drop_oldest"])
async def test_a_message_larger_than_the_outbox_waits_where_nothing_else_does(
    pair: Any, policy: Policy
) -> None:
    """What a client may send must be possible to receive; a second one is over the bound."""
    connection, transport = pair
    large = b'{"x":"%b"}' % (b"x" * 2 * OUTBOX)
    connection.pause()
    connection.hold(held(Channel(), large, policy))
    connection.hold(held(Channel(), large, policy))
    assert connection.closing == (policy == "disconnect")
    connection.resume()
    sizes = [len(event.get("x", "")) for event in transport.events]
    assert sizes == ([] if policy == "disconnect" else [2 * OUTBOX, 0])


async def test_a_client_that_asks_without_reading_is_a_slow_consumer(pair: Any) -> None:
    """Answers too are bounded by the outbox."""
    connection, transport = pair
    connection.pause()
    for _ in range(100):
        connection.send(b'{"type":"pong"}')
    assert transport.close_codes == [CloseCode.SLOW_CONSUMER]


async def test_nothing_is_written_behind_a_close(pair: Any) -> None:
    """After a close frame there is no data, also when the transport gets room, and nothing is counted."""
    connection, transport = pair
    channel = Channel()
    connection.close(4001, "late")
    assert connection.blocked
    connection.send(b"{}")
    connection.pong(b"")
    connection.ping(0.0)
    connection.hold(held(channel, b"{}"))
    connection.pause()
    connection.resume()
    connection.hold(held(channel, b"{}"))
    connection.resume()
    assert connection.blocked
    assert transport.opcodes == [8]
    assert channel.counted == 0


async def test_a_second_close_says_nothing(pair: Any) -> None:
    """The first close decides the code."""
    connection, transport = pair
    connection.close(4001, "one")
    connection.close(4006, "two")
    connection.acknowledge_close(4006)
    assert transport.close_codes == [4001]
    assert transport.closed


async def test_a_clients_close_is_answered_with_its_code(pair: Any) -> None:
    """A goodbye is echoed, and its peer hears the code once."""
    connection, transport = pair
    peer = connection.peer
    assert isinstance(peer, FakePeer)
    connection.acknowledge_close(1000)
    assert transport.close_codes == [1000]
    assert transport.closed
    connection.lost()
    assert peer.codes == [1000]


async def test_a_socket_that_vanishes_is_told_as_1006(pair: Any) -> None:
    """Without a close frame the peer hears of an abnormal end."""
    connection, _ = pair
    peer = connection.peer
    assert isinstance(peer, FakePeer)
    connection.lost()
    assert peer.codes == [1006]
    assert (connection.closing, connection.gone, connection.end) == (True, True, "client")


async def test_a_client_that_does_not_answer_a_close_is_cut_off(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grace over, the transport is aborted; a client that answered in time is not."""
    monkeypatch.setattr(connection_module, "CLOSE_GRACE_SECONDS", 0.01)
    connection, transport = pair
    other, answered = connect()
    connection.close(4001, "late")
    other.close(4001, "late")
    other.lost()
    async with asyncio.timeout(30):
        while not transport.aborted:
            await asyncio.sleep(0.005)
    assert not answered.aborted


async def test_what_a_connection_still_hears_depends_on_who_ended_it(pair: Any) -> None:
    """Refused clients are not heard any more; at a restart they are until they answer the close."""
    connection, _ = pair
    refused, _ = connect()
    refused.close(4501, "revoked")
    assert (refused.deaf, refused.end) == (True, "refused")
    connection.close(1012, "restart", end="restart")
    assert (connection.deaf, connection.end) == (False, "restart")
    connection.acknowledge_close(1012)
    assert (connection.deaf, connection.end) == (True, "restart")


async def test_reading_paused_goes_on_for_the_answer_to_a_close(pair: Any) -> None:
    """A close resumes reading, else the client's answer would never be seen."""
    connection, transport = pair
    connection.pause_reading()
    assert connection.reading_paused and not transport.reading
    connection.close(4001, "late")
    assert transport.reading


async def test_a_ping_is_answered_by_any_progress_of_a_slow_reader(pair: Any) -> None:
    """A client whose socket takes bytes again is there, although the ping never reached it."""
    connection, transport = pair
    connection.pause()
    connection.ping(5.0)
    assert (connection.ping_unanswered, connection.pinged_at, transport.opcodes) == (True, 5.0, [])
    connection.resume()
    assert not connection.ping_unanswered


async def test_pongs_are_not_kept_for_a_client_that_does_not_read(pair: Any) -> None:
    """Pinging without reading fills no buffer."""
    connection, transport = pair
    connection.pong(b"1")
    connection.pause()
    for _ in range(1000):
        connection.pong(b"2")
    connection.resume()
    assert transport.opcodes == [10]


@pytest.mark.parametrize(
    ("code", "label"), [(4006, "4006"), (4321, "other"), (3000, "other"), (1000, "1000"), (1001, "1001")]
)
async def test_a_client_cannot_make_labels_of_a_metric(pair: Any, code: int, label: str) -> None:
    """Close codes that this platform does not know are counted together."""
    connection, _ = pair
    counter = metrics.CLOSES.labels(label)
    before = counter._value.get()
    connection.acknowledge_close(code)
    assert counter._value.get() == before + 1
