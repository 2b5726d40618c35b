"""Token buckets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from artcafe_common.quota import WAIT_MAX_SECONDS, Buckets, TokenBucket

from .support import FrozenClock


def test_burst_then_rate() -> None:
    """A full bucket gives its burst at once, then its rate."""
    bucket = TokenBucket(2, 5, 0)
    assert [bucket.take(0) for _ in range(6)] == [True] * 5 + [False]
    assert [bucket.take(0.5), bucket.take(0.5)] == [True, False]
    assert [bucket.take(100) for _ in range(6)] == [True] * 5 + [False]


def test_refused_take_costs_nothing() -> None:
    """What is refused takes no token."""
    bucket = TokenBucket(1, 3, 0)
    assert not bucket.take(0, 4)
    assert bucket.take(0, 3)


def test_wait_is_the_time_until_enough_is_there() -> None:
    """After the wait a take succeeds; a little before it does not."""
    bucket = TokenBucket(4, 2, 0)
    assert bucket.wait(0) == 0
    bucket.take(0, 2)
    assert bucket.wait(0) == 0.25
    assert not bucket.take(0.24)
    assert bucket.take(0.5)


def test_wait_is_bounded_where_there_will_never_be_enough() -> None:
    """A bucket that is not filled, or too small, has a wait that can be told to a client."""
    empty = TokenBucket(0, 1, 0)
    empty.take(0)
    assert empty.wait(0) == WAIT_MAX_SECONDS
    assert TokenBucket(1, 1, 0).wait(0, 2) == WAIT_MAX_SECONDS
    slow = TokenBucket(1e-9, 1, 0)
    slow.take(0)
    assert slow.wait(0) == WAIT_MAX_SECONDS


@given(st.lists(st.floats(0, 3), max_size=80))
def test_never_more_than_burst_and_rate(pauses: list[float]) -> None:
    """Over any time no more is given than the burst and what has flowed in since."""
    bucket, now, taken = TokenBucket(2, 4, 0), 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now)
        assert taken <= 4 + 2 * now + 1e-6


def test_each_key_has_its_bucket() -> None:
    """What one takes is not missing for another."""
    clock = FrozenClock()
    buckets: Buckets[str] = Buckets(1, 1, clock)
    assert buckets.take("a") == 0
    assert buckets.take("a") == 1
    assert buckets.take("b") == 0
    clock.move(1)
    assert buckets.take("a") == 0


def test_longest_unused_key_is_forgotten_first() -> None:
    """Keys of strangers use bounded memory, and those in use stay."""
    buckets: Buckets[int] = Buckets(0.001, 1, FrozenClock(), capacity=3)
    for key in (1, 2, 3, 1):
        buckets.take(key)
    buckets.take(4)
    assert list(buckets._buckets) == [3, 1, 4]
    assert buckets.take(1) > 0
