"""Frames as RFC 6455 has them."""

from __future__ import annotations

import pytest
from gateway_fakes import parse

from artcafe_gateway import wire


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_a_text_frame_carries_a_payload_of_any_size(size: int) -> None:
    """Each of the three forms of the length is used where it must be, at its edges."""
    payload = b"x" * size
    frame = wire.text_frame(payload)
    assert parse(frame) == [(True, 1, payload)]
    assert len(frame) - size == (2 if size <= 125 else 4 if size <= 65_535 else 10)


def test_joined_frames_are_read_one_by_one() -> None:
    """Prepared frames may be joined into one write."""
    joined = b"".join(wire.text_frame(b"%d" % number) for number in range(3))
    assert [frame.payload for frame in parse(joined)] == [b"0", b"1", b"2"]


def test_a_pong_repeats_the_pings_payload() -> None:
    """A pong is a whole control frame with the same payload."""
    assert parse(wire.pong_frame(b"tick")) == [(True, 10, b"tick")]
    assert parse(wire.PING) == [(True, 9, b"")]


def test_a_close_frame_carries_code_and_reason() -> None:
    """The code stands in network order before the reason."""
    assert parse(wire.close_frame(4006, "replaced")) == [(True, 8, b"\x0f\xa6replaced")]


def test_a_long_reason_is_cut_between_characters() -> None:
    """A control frame holds 125 bytes, and what is cut must still be UTF-8."""
    [frame] = parse(wire.close_frame(1011, "ä" * 100))
    assert len(frame.payload) <= 125
    assert frame.payload[2:].decode() == "ä" * 61
