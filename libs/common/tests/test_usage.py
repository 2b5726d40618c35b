"""Counting: what is added up, and to which hour it belongs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artcafe_common.contracts.metering import UsageRow
from artcafe_common.usage import HOUR_SECONDS, UsageCounter

from .support import FrozenClock

# 2027-01-15T08:00:00Z, the beginning of an hour.
HOUR = 1_800_000_000.0


@pytest.fixture
def clock() -> FrozenClock:
    """A clock ten minutes into an hour."""
    return FrozenClock(HOUR + 600)


@pytest.fixture
def counter(clock: FrozenClock) -> UsageCounter:
    """An empty counter."""
    return UsageCounter(clock)


def test_counts_add_up_by_tenant_agent_and_channel(counter: UsageCounter, clock: FrozenClock) -> None:
    """Each combination of tenant, agent and channel has one row with its sums."""
    now = clock.now()
    counter.message(now, "t1", "a1", "c1", 10)
    counter.message(now, "t1", "a1", "c1", 5)
    counter.message(now, "t1", "a1", "c2", 1)
    counter.message(now, "t2", "a1", "c1", 7)
    counter.api_call("t1")
    delivered = counter.tally(now, "t1", "a2", "c1")
    delivered.deliveries += 3
    delivered.bytes_out += 30
    delivered.connection_seconds += 1.23456
    clock.move(1)
    [(start, end, rows)] = counter.take()
    assert (start, end) == (HOUR + 600, HOUR + 601)
    assert sorted(rows, key=lambda row: (row.tenant_id, row.agent_id, row.channel_id)) == [
        UsageRow("t1", api_calls=1),
        UsageRow("t1", "a1", "c1", messages=2, bytes_in=15),
        UsageRow("t1", "a1", "c2", messages=1, bytes_in=1),
        UsageRow("t1", "a2", "c1", deliveries=3, bytes_out=30, connection_seconds=1.235),
        UsageRow("t2", "a1", "c1", messages=1, bytes_in=7),
    ]


def test_nothing_counted_is_nothing_taken(counter: UsageCounter, clock: FrozenClock) -> None:
    """Without counts there is no batch, also over the end of an hour."""
    assert list(counter.take()) == []
    clock.move(2 * HOUR_SECONDS)
    assert list(counter.take()) == []


def test_what_was_taken_is_gone(counter: UsageCounter, clock: FrozenClock) -> None:
    """Counts are taken once, and the next span begins where the last one ended."""
    counter.message(clock.now(), "t", "a", "c", 1)
    clock.move(1)
    assert len(list(counter.take())) == 1
    assert list(counter.take()) == []
    counter.message(clock.now(), "t", "a", "c", 1)
    clock.move(1)
    [(start, end, [row])] = counter.take()
    assert (start, end, row.messages) == (HOUR + 601, HOUR + 602, 1)


def test_message_at_the_edge_belongs_to_the_new_hour(counter: UsageCounter, clock: FrozenClock) -> None:
    """The last moment of an hour and the first of the next are in batches of their own hours."""
    counter.message(HOUR + HOUR_SECONDS - 0.001, "t", "a", "c", 1)
    counter.message(HOUR + HOUR_SECONDS, "t", "a", "c", 2)
    clock.time = HOUR + HOUR_SECONDS + 0.5
    first, second = counter.take()
    assert first == (HOUR + 600, HOUR + HOUR_SECONDS, [UsageRow("t", "a", "c", messages=1, bytes_in=1)])
    assert second == (
        HOUR + HOUR_SECONDS,
        HOUR + HOUR_SECONDS + 0.5,
        [UsageRow("t", "a", "c", messages=1, bytes_in=2)],
    )


def test_hour_ends_without_another_message(counter: UsageCounter, clock: FrozenClock) -> None:
    """What was counted in an hour is closed at its end though nothing is counted after it."""
    counter.message(clock.now(), "t", "a", "c", 1)
    clock.time = HOUR + 5 * HOUR_SECONDS + 1
    [(start, end, _)] = counter.take()
    assert (start, end) == (HOUR + 600, HOUR + HOUR_SECONDS)


def test_others_hand_over_before_counts_are_taken(counter: UsageCounter, clock: FrozenClock) -> None:
    """Whoever adds up elsewhere is asked first, and what they hand over is in the batch."""
    held = [5]

    def settle() -> None:
        if held[0]:
            counter.tally(clock.now(), "t", "a", "c").deliveries += held[0]
            held[0] = 0

    counter.before_close(settle)
    counter.message(clock.now(), "t", "a", "c", 1)
    [(_, _, [row])] = counter.take()
    assert (row.messages, row.deliveries) == (1, 5)


def test_what_is_handed_over_at_the_end_of_an_hour_belongs_to_it(
    counter: UsageCounter, clock: FrozenClock
) -> None:
    """Counts of the old hour that are handed over after its end go to the old hour."""
    held = [5]

    def settle() -> None:
        counter.tally(clock.now(), "t", "a", "c").deliveries += held[0]
        held[0] = 0

    counter.before_close(settle)
    counter.message(clock.now(), "t", "a", "c", 1)
    clock.time = HOUR + HOUR_SECONDS + 10
    counter.message(clock.now(), "t", "a", "c", 1)
    first, second = counter.take()
    assert (first[1], first[2][0].deliveries, first[2][0].messages) == (HOUR + HOUR_SECONDS, 5, 1)
    assert (second[0], second[2][0].deliveries, second[2][0].messages) == (HOUR + HOUR_SECONDS, 0, 1)


def test_fault_of_whoever_hands_over_loses_no_hour(counter: UsageCounter, clock: FrozenClock) -> None:
    """After a fault while handing over, hours are still told apart."""
    faults = [ValueError("a bug")]

    def settle() -> None:
        if faults:
            raise faults.pop()

    counter.before_close(settle)
    counter.message(clock.now(), "t", "a", "c", 1)
    with pytest.raises(ValueError, match="a bug"):
        counter.take()
    clock.time = HOUR + HOUR_SECONDS
    counter.message(clock.now(), "t", "a", "c", 1)
    assert [end for _, end, _ in counter.take()] == [HOUR + HOUR_SECONDS, HOUR + HOUR_SECONDS]


def test_clock_that_is_put_back_makes_no_negative_span(counter: UsageCounter, clock: FrozenClock) -> None:
    """A batch never ends before it starts."""
    counter.message(clock.now(), "t", "a", "c", 1)
    clock.time -= 60
    [(start, end, _)] = counter.take()
    assert start <= end


@given(st.lists(st.floats(0, 900), max_size=60))
def test_every_row_lies_in_one_hour_and_none_is_lost(pauses: list[float]) -> None:
    """However messages are spread, each is in exactly one batch, and no batch crosses an hour."""
    clock = FrozenClock(HOUR + 3599.5)
    counter = UsageCounter(clock)
    expected: dict[float, int] = {}
    counted: dict[float, int] = {}
    for number, pause in enumerate(pauses):
        clock.move(pause)
        counter.message(clock.now(), "t", "a", "c", 1)
        hour = clock.now() // HOUR_SECONDS
        expected[hour] = expected.get(hour, 0) + 1
        if number % 3 == 0:
            clock.move(1)
            _add(counted, counter)
    clock.move(HOUR_SECONDS)
    _add(counted, counter)
    assert counted == expected


def _add(counted: dict[float, int], counter: UsageCounter) -> None:
    for start, end, rows in counter.take():
        hour = start // HOUR_SECONDS
        assert start <= end <= (hour + 1) * HOUR_SECONDS
        counted[hour] = counted.get(hour, 0) + sum(row.messages for row in rows)
