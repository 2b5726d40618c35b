"""How deeply JSON is nested."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artcafe_common.json_depth import deeper_than

JSON = st.recursive(
    st.none() | st.integers() | st.text('a[]{}"\\\u00e9'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a[]{}"\\'), inner, max_size=3),
    max_leaves=20,
)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


@given(JSON, st.integers(1, 6), st.booleans())
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
    assert time.process_time() - started < 0.3
