"""Counting: what is added up, and to which hour it belongs."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artcafe_common import metrics
from artcafe_common.contracts.metering import UsageRow
from artcafe_common.usage import HOUR_SECONDS, Meter, UsageCounter
from artcafe_common.usage.span import ROWS_PER_BATCH

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
    [span] = counter.take()
    assert (span.start, span.end) == (HOUR + 600, HOUR + 601)
    assert sorted(span.rows, key=lambda row: (row.tenant_id, row.agent_id, row.channel_id)) == [
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
    [span] = counter.take()
    assert (span.start, span.end, span.messages) == (HOUR + 601, HOUR + 602, 1)


def test_message_at_the_edge_belongs_to_the_new_hour(counter: UsageCounter, clock: FrozenClock) -> None:
    """The last moment of an hour and the first of the next are in batches of their own hours."""
    counter.message(HOUR + HOUR_SECONDS - 0.001, "t", "a", "c", 1)
    counter.message(HOUR + HOUR_SECONDS, "t", "a", "c", 2)
    clock.time = HOUR + HOUR_SECONDS + 0.5
    first, second = counter.take()
    assert (first.start, first.end) == (HOUR + 600, HOUR + HOUR_SECONDS)
    assert first.rows == [UsageRow("t", "a", "c", messages=1, bytes_in=1)]
    assert (second.start, second.end) == (HOUR + HOUR_SECONDS, HOUR + HOUR_SECONDS + 0.5)
    assert second.rows == [UsageRow("t", "a", "c", messages=1, bytes_in=2)]


def test_hour_ends_without_another_message(counter: UsageCounter, clock: FrozenClock) -> None:
    """What was counted in an hour is closed at its end though nothing is counted after it."""
    counter.message(clock.now(), "t", "a", "c", 1)
    clock.time = HOUR + 5 * HOUR_SECONDS + 1
    [span] = counter.take()
    assert (span.start, span.end) == (HOUR + 600, HOUR + HOUR_SECONDS)


def test_others_hand_over_before_counts_are_taken(counter: UsageCounter, clock: FrozenClock) -> None:
    """Whoever adds up elsewhere is asked first, and what they hand over is in the batch."""
    held = [5]

    def settle() -> None:
        if held[0]:
            counter.tally(clock.now(), "t", "a", "c").deliveries += held[0]
            held[0] = 0

    counter.before_close(settle)
    counter.message(clock.now(), "t", "a", "c", 1)
    [row] = counter.take()[0].rows
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
    assert (first.end, first.rows[0].deliveries, first.messages) == (HOUR + HOUR_SECONDS, 5, 1)
    assert (second.start, second.rows[0].deliveries, second.messages) == (HOUR + HOUR_SECONDS, 0, 1)


def test_while_nothing_can_be_sent_an_hour_is_closed_before_anything_is_handed_over(
    counter: UsageCounter, clock: FrozenClock
) -> None:
    """Settling alone puts nothing of an hour that has ended into the next one."""
    held = [5]

    def settle() -> None:
        counter.tally(clock.now(), "t", "a", "").connection_seconds += held[0]
        held[0] = 0

    counter.before_close(settle)
    counter.message(clock.now(), "t", "a", "c", 1)
    clock.time = HOUR + HOUR_SECONDS + 0.5
    counter.settle()
    [span] = counter.take_closed()
    assert (span.end, span.messages) == (HOUR + HOUR_SECONDS, 1)
    assert sum(row.connection_seconds for row in span.rows) == 5


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
    assert [span.end for span in counter.take()] == [HOUR + HOUR_SECONDS, HOUR + HOUR_SECONDS]


def test_clock_that_is_put_back_makes_no_negative_span(counter: UsageCounter, clock: FrozenClock) -> None:
    """A batch never ends before it starts."""
    counter.message(clock.now(), "t", "a", "c", 1)
    clock.time -= 60
    [span] = counter.take()
    assert span.start <= span.end


def test_clock_that_was_an_hour_ahead_spoils_only_what_was_counted_meanwhile(
    counter: UsageCounter, clock: FrozenClock
) -> None:
    """Once the machine's clock is right again, what is counted belongs to the hour that it is."""
    counter.message(clock.now(), "t", "a", "c", 1)
    clock.time += 5 * HOUR_SECONDS
    counter.message(clock.now(), "t", "a", "c", 1)
    clock.time -= 5 * HOUR_SECONDS
    counter.message(clock.now(), "t", "a", "c", 1)
    spans = counter.take()
    clock.move(1)
    counter.message(clock.now(), "t", "a", "c", 1)
    spans += counter.take()
    assert [(span.start // HOUR_SECONDS, span.messages) for span in spans] == [
        (HOUR // HOUR_SECONDS, 1),
        (HOUR // HOUR_SECONDS + 5, 1),
        (HOUR // HOUR_SECONDS, 1),
        (HOUR // HOUR_SECONDS, 1),
    ]
    assert [span.first_seq for span in spans] == [1, 2, 3, 4]
    assert all(span.start <= span.end for span in spans)


@pytest.mark.parametrize("take_first", [False, True])
def test_clock_that_is_put_back_over_the_edge_of_an_hour_goes_on_in_the_hour_before(
    counter: UsageCounter, clock: FrozenClock, take_first: bool
) -> None:
    """Whether batches are taken in between or not, no row is in an hour in which it was not accepted."""
    clock.time = HOUR + HOUR_SECONDS + 1
    counter.message(clock.now(), "t", "a", "c", 1)
    clock.time -= 2
    spans = counter.take() if take_first else []
    counter.message(clock.now(), "t", "a", "c", 1)
    clock.move(2)
    counter.message(clock.now(), "t", "a", "c", 1)
    spans += counter.take()
    assert [span.start // HOUR_SECONDS - HOUR // HOUR_SECONDS for span in spans] == [1, 0, 1]


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
    for span in counter.take():
        hour = span.start // HOUR_SECONDS
        assert span.start <= span.end <= (hour + 1) * HOUR_SECONDS
        counted[hour] = counted.get(hour, 0) + span.messages


async def test_messages_of_one_turn_are_counted_together_when_it_ends(
    counter: UsageCounter, clock: FrozenClock
) -> None:
    """What meters add up in a turn is counted once it is over, or when counts are taken before that."""
    one, two = Meter("t", "a", "c"), Meter("t", "b", "c")

    def publish(meter: Meter, size: int) -> None:
        meter.messages += 1
        meter.bytes_in += size
        if meter.messages == 1:
            counter.at_end_of_turn(meter, clock.now())

    for size in (1, 2, 3):
        publish(one, size)
    publish(two, 4)
    assert counter.tally(clock.now(), "t", "a", "c").messages == 0
    await asyncio.sleep(0)
    tally = counter.tally(clock.now(), "t", "a", "c")
    assert (tally.messages, tally.bytes_in) == (3, 6)
    publish(one, 5)
    [span] = counter.take()
    assert sorted((row.agent_id, row.messages, row.bytes_in) for row in span.rows) == [
        ("a", 4, 11),
        ("b", 1, 4),
    ]
    await asyncio.sleep(0)
    assert counter.take() == []


async def test_messages_of_a_turn_belong_to_the_hour_in_which_they_came(
    counter: UsageCounter, clock: FrozenClock
) -> None:
    """A turn that ends in the next hour leaves its messages in the one before."""
    meter = Meter("t", "a", "c")
    clock.time = HOUR + HOUR_SECONDS - 0.001
    meter.messages, meter.bytes_in = 1, 7
    counter.at_end_of_turn(meter, clock.now())
    clock.time = HOUR + HOUR_SECONDS
    counter.message(clock.now(), "t", "b", "c", 1)
    first, second = counter.take()
    assert [(row.agent_id, row.messages) for row in first.rows] == [("a", 1)]
    assert [(row.agent_id, row.messages) for row in second.rows] == [("b", 1)]


def test_batches_are_numbered_through_all_spans(counter: UsageCounter, clock: FrozenClock) -> None:
    """However many rows a span has, its batches are small enough, and the next span goes on counting them."""
    for number in range(ROWS_PER_BATCH + 1):
        counter.message(clock.now(), "t", f"a{number}", "c", 1)
    [first] = counter.take()
    counter.message(clock.now(), "t", "a", "c", 1)
    [second] = counter.take()
    batches = [*first.batches(), *second.batches()]
    assert [(batch.source, batch.seq, len(batch.rows)) for batch in batches] == [
        (counter.source, 1, ROWS_PER_BATCH),
        (counter.source, 2, 1),
        (counter.source, 3, 1),
    ]
    first.acknowledged = 1
    assert [batch.seq for batch in first.batches()] == [2]


def test_without_room_the_oldest_is_kept_and_the_loss_is_told(
    clock: FrozenClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows over the bound are lost, loudly; known ones go on counting, and acknowledged ones make room."""
    counter = UsageCounter(clock, rows_max=3)
    lost = metrics.USAGE_LOST._value.get()
    counter.message(clock.now(), "t", "a1", "c", 1)
    counter.message(clock.now(), "t", "a2", "c", 1)
    clock.time = HOUR + HOUR_SECONDS
    counter.message(clock.now(), "t", "a1", "c", 1)
    counter.message(clock.now(), "t", "a2", "c", 1)
    counter.message(clock.now(), "t", "a1", "c", 1)
    assert counter.fill == 1.0
    [old] = counter.take_closed()
    counter.settle()
    assert [record.message for record in caplog.records] == ["usage_lost"]
    assert (caplog.records[0].__dict__["messages"], metrics.USAGE_LOST._value.get() - lost) == (1, 1)
    assert old.messages == 2
    counter.acknowledged(old)
    counter.message(clock.now(), "t", "a2", "c", 1)
    [new] = counter.take()
    assert sorted((row.agent_id, row.messages) for row in new.rows) == [("a1", 2), ("a2", 1)]
