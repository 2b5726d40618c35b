"""The live message as it goes over the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from artcafe_common.clock import rfc3339
from artcafe_common.envelope import (
    build_frame,
    data_size,
    decode_frame,
    message_id_of,
    sender_field,
    sender_of,
)
from artcafe_common.ids import new_ulid

ID = "01ARYZ6S41TSV4RRFFQ69G5FAV"


def test_frame_is_these_bytes() -> None:
    """The frame's fields stand in this order, without spaces, with the data unchanged."""
    frame = build_frame(ID, sender_field("a1"), 1_700_000_000.1239, "team.updates", b'{ "n" : 1.50 }')
    assert frame == (
        b'{"type":"message","message_id":"01ARYZ6S41TSV4RRFFQ69G5FAV","from":"a1",'
        b'"timestamp":"2023-11-14T22:13:20.123Z","channel":"team.updates","subject":"team.updates",'
        b'"data":{ "n" : 1.50 }}'
    )


@pytest.mark.parametrize(
    "sender",
    ["a1", "user:google-oauth2|1", 'a"b', "a\\b", "a\nb", "\x00", "Zoë", "日本", "😀", "</script>", ""],
)
def test_any_sender_stands_in_a_frame(sender: str) -> None:
    """A person's id may hold any characters; the frame stays valid and says the same."""
    frame = build_frame(ID, sender_field(sender), 0, "c", b"1")
    assert json.loads(frame)["from"] == sender
    assert decode_frame(frame).sender == sender
    assert b"\n" not in frame


def test_lone_surrogate_in_a_sender_does_not_break_a_frame() -> None:
    """What is no character is escaped."""
    assert sender_field("\ud800") == b'"\\ud800"'


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    ),
    st.text(max_size=30),
    st.floats(0, 4e9),
)
@example(1, "a", 1.9999995)
@example(1, "a", 1.001)
def test_frame_decodes_to_what_it_was_built_from(data: Any, sender: str, now: float) -> None:
    """Whatever is sent, a JSON decoder finds it again."""
    message_id = new_ulid(now)
    raw = json.dumps(data).encode()
    frame = build_frame(message_id, sender_field(sender), now, "a.b", raw)
    assert json.loads(frame) == {
        "type": "message",
        "message_id": message_id,
        "from": sender,
        "timestamp": rfc3339(now),
        "channel": "a.b",
        "subject": "a.b",
        "data": data,
    }
    assert message_id_of(frame) == message_id.encode()
    assert sender_of(frame) == sender_field(sender)
    decoded = decode_frame(frame)
    assert bytes(decoded.data) == raw
    assert (decoded.message_id, decoded.channel, decoded.seq, decoded.prev) == (message_id, "a.b", None, None)


def test_frame_of_a_newer_peer_decodes() -> None:
    """Fields that this version does not know, and those of durable channels, do no harm."""
    frame = build_frame(ID, sender_field("a"), 0, "c", b"[1]")[:-1] + b',"seq":7,"prev":5,"newer":{}}'
    decoded = decode_frame(frame)
    assert (decoded.seq, decoded.prev, bytes(decoded.data)) == (7, 5, b"[1]")


@pytest.mark.parametrize("data", ["", "x", 'a","data":"b', {"data": {"data": 1}}, [1, "ü"], None, "x" * 5000])
@pytest.mark.parametrize("sender", ["a1", 'user:x","data":'])
def test_size_of_data_is_found_in_a_frame(data: Any, sender: str) -> None:
    """Whatever it holds, and whoever sent it, exactly the bytes of the data are counted."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    assert data_size(build_frame(ID, sender_field(sender), 1_700_000_000.0, "c", text)) == len(text)
