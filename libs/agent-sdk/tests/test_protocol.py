"""Frames: what goes over the wire, byte for byte, and what is understood of it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artcafe_agent.errors import ProtocolError
from artcafe_agent.protocol import (
    AnyEvent,
    Command,
    Delivery,
    Dropped,
    Error,
    Heartbeat,
    HeartbeatAck,
    Pong,
    Presence,
    PresenceAck,
    Publish,
    Published,
    Subscribe,
    Subscribed,
    Unknown,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    decode,
    encode,
)


@pytest.mark.parametrize(
    ("command", "frame"),
    [
        (Heartbeat(), '{"type":"heartbeat"}'),
        (
            Heartbeat(timestamp="t", status="busy", metrics={"n": 1}),
            '{"type":"heartbeat","timestamp":"t","status":"busy","metrics":{"n":1}}',
        ),
        (Presence(status="online"), '{"type":"presence","status":"online"}'),
        (
            Presence(id="1", status="online", capabilities=["a"], metadata={}),
            '{"type":"presence","id":"1","status":"online","capabilities":["a"],"metadata":{}}',
        ),
        (Subscribe(id="2", channel="a.*"), '{"type":"subscribe","id":"2","channel":"a.*"}'),
        (Unsubscribe(channel="a"), '{"type":"unsubscribe","channel":"a"}'),
        (Publish(channel="a", data=None), '{"type":"publish","channel":"a","data":null}'),
        (
            Publish(id="3", channel="a", data=[1, "é"], echo=False),
            '{"type":"publish","id":"3","channel":"a","data":[1,"é"],"echo":false}',
        ),
    ],
)
def test_commands_as_the_server_reads_them(command: Command, frame: str) -> None:
    """Golden frames: what is not given is not sent, but null data is."""
    assert encode(command) == frame


@pytest.mark.parametrize(
    ("frame", "event"),
    [
        (
            '{"type":"welcome","agent_id":"a","tenant_id":"t","connection_id":"c","server_id":"s",'
            '"heartbeat_interval":30,"limits":{"message_bytes":1},"timestamp":"x"}',
            Welcome(
                agent_id="a",
                tenant_id="t",
                connection_id="c",
                server_id="s",
                heartbeat_interval=30.0,
                limits={"message_bytes": 1},
                timestamp="x",
            ),
        ),
        ('{"type":"heartbeat_ack","timestamp":"x"}', HeartbeatAck(timestamp="x")),
        ('{"type":"presence_ack","status":"online","id":"1"}', PresenceAck(id="1")),
        (
            '{"type":"subscribed","channel":"A","subject":"a","id":"1"}',
            Subscribed(id="1", channel="A", subject="a"),
        ),
        ('{"type":"unsubscribed","channel":"a","reason":"r"}', Unsubscribed(channel="a", reason="r")),
        ('{"type":"dropped","channel":"a","count":3,"reason":"slow"}', Dropped(channel="a", count=3)),
        (
            '{"type":"published","channel":"a","message_id":"m","id":7}',
            Published(id=7, channel="a", message_id="m"),
        ),
        ('{"type":"pong","timestamp":"x"}', Pong(timestamp="x")),
        (
            '{"type":"error","code":"not_found","message":"m","error":"m","retry_after":1.5,"id":"9"}',
            Error(id="9", code="not_found", message="m", retry_after=1.5),
        ),
        (
            '{"type":"message","message_id":"m","from":"user:1","timestamp":"x","channel":"c","subject":"c",'
            '"data":{"a":[1.5,null]},"seq":4,"prev":3}',
            Delivery(
                message_id="m",
                sender="user:1",
                timestamp="x",
                channel="c",
                subject="c",
                data={"a": [1.5, None]},
                seq=4,
                prev=3,
            ),
        ),
        ('{"type":"tomorrow","x":1}', Unknown("tomorrow")),
    ],
)
def test_events_as_the_server_writes_them(frame: str, event: AnyEvent) -> None:
    """Golden events, as text and as bytes."""
    assert decode(frame) == event
    assert decode(frame.encode()) == event


def test_unknown_fields_are_ignored() -> None:
    """A newer server may say more."""
    assert decode('{"type":"pong","timestamp":"x","new":{"deep":[1]}}') == Pong(timestamp="x")


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"null",
        b"1",
        b'"message"',
        b"[]",
        b"{}",
        b'{"type":null}',
        b'{"type":["message"]}',
        b'{"type":"message"}',
        b'{"type":"message","channel":5}',
        b'{"type":"welcome","heartbeat_interval":"often"}',
        b'{"type":"pong"',
        b'{"type":"pong"}{}',
        b"\xff\xfe",
        b'{"type":"message","channel":"\xff"}',
        b"[" * 100_000,
        b'{"type":"message","channel":"c","data":' + b"[" * 100_000,
    ],
)
def test_garbage_is_a_typed_error(frame: bytes) -> None:
    """Nothing that a peer sends raises anything else."""
    with pytest.raises(ProtocolError):
        decode(frame)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_a_typed_error(frame: bytes) -> None:
    """No input crashes the decoder."""
    with contextlib.suppress(ProtocolError):
        decode(frame)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_any_json_value_survives_the_way(data: Any) -> None:
    """What is published is what is delivered."""
    frame = encode(Publish(channel="c", data=data)).replace('"type":"publish"', '"type":"message"', 1)
    event = decode(frame)
    assert isinstance(event, Delivery)
    assert event.data == data


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_know_become_null(number: float) -> None:
    """As JavaScript does it; an agent that divided by zero goes on publishing."""
    assert encode(Publish(channel="c", data=number)) == '{"type":"publish","channel":"c","data":null}'


def test_data_that_is_no_json_is_a_type_error() -> None:
    """The caller learns at once what cannot be sent."""
    with pytest.raises(TypeError):
        encode(Publish(channel="c", data=object()))
