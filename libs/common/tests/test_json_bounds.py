"""Bounds on the JSON of strangers."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artcafe_common.errors import ServiceError
from artcafe_common.json_bounds import DEPTH_MAX, DIGITS_MAX, check_bounds, deeper_than

JSON = st.recursive(
    st.none() | st.integers() | st.text('a[]{}"\\\u00e9'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a[]{}"\\'), inner, max_size=3),
    max_leaves=20,
)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


@given(JSON, st.integers(1, 9), st.booleans())
def test_depth_is_that_of_the_decoded_value(value: Any, limit: int, ascii_only: bool) -> None:
    """The answer is that of walking through what a decoder makes; brackets in text do not count."""
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert deeper_than(data, limit) is (_depth(value) > limit)


@pytest.mark.parametrize("limit", [1, 2, 64])
def test_edge_of_the_limit(limit: int) -> None:
    """The limit itself is allowed, one more is not."""
    assert not deeper_than(b"[" * limit + b"]" * limit, limit)
    assert deeper_than(b"[" * (limit + 1) + b"]" * (limit + 1), limit)
    assert deeper_than(b'{"a":' * (limit + 1) + b"1" + b"}" * (limit + 1), limit)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b"[" * 500_000 + b"]" * 500_000,
        b'"' + b'\\"' * 500_000 + b"[" * 100,
        b"[" * 100 + b'"' * 999_999,
        b"[" * 100 + b"\\" * 1_000_000,
        b'["\\u005b"' * 100_000,
        b"[{" * 300_000,
        b"[]" * 500_000,
    ],
)
def test_hostile_data_takes_little_time(data: bytes) -> None:
    """A megabyte of anything is judged quickly."""
    started = time.process_time()
    deeper_than(data, 64)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("depth", [DEPTH_MAX - 1, DEPTH_MAX])
def test_many_deep_things_are_judged_without_going_over_them_level_by_level(depth: int) -> None:
    """Whoever takes one message after the other is not held up by what is deep all over."""
    size = 1_000_000
    group = b"[" * depth + b"]" * depth + b","
    deep = b"[" + group * (size // len(group)) + b"1]"
    flat = b"[" + b"[]," * (size // 3) + b"1]"

    def seconds(data: bytes) -> float:
        started = time.process_time()
        deeper_than(data, DEPTH_MAX)
        return time.process_time() - started

    assert deeper_than(deep, DEPTH_MAX) is (depth + 1 > DEPTH_MAX)
    # The quickest of a few: a machine that stands still meanwhile says nothing.
    assert min(seconds(deep) for _ in range(5)) < 15 * min(seconds(flat) for _ in range(5))


@pytest.mark.parametrize("around", [b"%b", b"[%b]", b'{"a":"1\\"1","b":-%b}', b"1.%b", b"[1e%b]"])
def test_number_of_too_many_digits_is_refused(around: bytes) -> None:
    """Wherever it stands, and whatever text is around it."""
    check_bounds(around % (b"1" * DIGITS_MAX), "data")
    with pytest.raises(ServiceError, match="data: a number has more than 1000 digits"):
        check_bounds(around % (b"1" * (DIGITS_MAX + 1)), "data")


def test_digits_in_text_are_no_number() -> None:
    """Text may hold what it likes, also behind an escaped quotation mark."""
    check_bounds(b'["%b","\\"%b"]' % (b"7" * 5000, b"7" * 5000), "data")


def test_data_that_is_nested_too_deeply_is_refused() -> None:
    """The error says what it is about."""
    with pytest.raises(ServiceError, match="data: nested deeper than 64"):
        check_bounds(b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1), "data")


def test_hostile_digits_take_no_time() -> None:
    """Runs of digits that are just not too long are looked at once."""
    data = b"[" + b",".join([b"1" * DIGITS_MAX] * 1000) + b"]"
    started = time.process_time()
    check_bounds(data, "data")
    assert time.process_time() - started < 2
