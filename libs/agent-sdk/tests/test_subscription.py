"""A subscription's queue: order, bounds, and what is told about what was lost."""

from __future__ import annotations

import asyncio

import pytest

from artcafe_agent import ConfigurationError, SlowConsumerError, Subscription
from artcafe_agent.protocol import Delivery
from artcafe_agent.subscription import Overflow


async def nothing(_: Subscription) -> None:
    """Stand for a client that is told that a subscription closes."""


def subscription(size: int = 3, overflow: Overflow = "drop_oldest") -> Subscription:
    """Return an empty subscription."""
    return Subscription(("c",), nothing, size, overflow)


def offer(to: Subscription, *numbers: int) -> None:
    """Receive messages with these data."""
    for number in numbers:
        to.offer(Delivery(channel="c", data=number))


async def drain(of: Subscription) -> list[tuple[int, int]]:
    """Return the data of what waits, each with how many messages were missed before it."""
    messages = [await of.get(20.0) for _ in range(of.waiting)]
    return [(message.data, message.missed) for message in messages]


async def test_messages_come_in_order() -> None:
    """First in, first out, and nothing missed."""
    small = subscription()
    offer(small, 1, 2, 3)
    assert await drain(small) == [(1, 0), (2, 0), (3, 0)]
    assert small.dropped == 0


async def test_oldest_are_dropped_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """The default keeps the newest; the gap stands on the first message after it."""
    small = subscription()
    offer(small, *range(10))
    assert await drain(small) == [(7, 7), (8, 0), (9, 0)]
    assert small.dropped == 7
    offer(small, 10, 11, 12, 13)
    assert await drain(small) == [(11, 1), (12, 0), (13, 0)]
    # One warning each time the queue fills up, not one for each message.
    assert len(caplog.records) == 2


async def test_queue_of_one_keeps_the_last() -> None:
    """The smallest queue still counts what it lost."""
    single = subscription(1)
    offer(single, 1, 2, 3)
    assert await drain(single) == [(3, 2)]


async def test_gaps_add_up_while_nobody_reads() -> None:
    """A gap before a message that is dropped itself is not forgotten."""
    small = subscription(2)
    small.note_gap(5)
    offer(small, 1, 2, 3, 4)
    assert await drain(small) == [(3, 7), (4, 0)]
    assert small.dropped == 7


async def test_gap_of_the_server_is_added_to_ours() -> None:
    """A message that becomes the first keeps the gap it had, and gets the one before it."""
    small = subscription(2)
    offer(small, 1)
    small.note_gap(5)
    offer(small, 2, 3)
    assert await drain(small) == [(2, 6), (3, 0)]


async def test_newest_are_dropped_and_told() -> None:
    """The other way round, the gap stands on what comes once there is room again."""
    small = subscription(overflow="drop_newest")
    offer(small, 1, 2, 3, 4, 5)
    assert await drain(small) == [(1, 0), (2, 0), (3, 0)]
    offer(small, 6)
    assert await drain(small) == [(6, 2)]


async def test_failing_instead_of_dropping() -> None:
    """For readers that may miss nothing the loss is an error, after what was received."""
    small = subscription(overflow="fail")
    offer(small, 1, 2, 3, 4, 5)
    assert await drain(small) == [(1, 0), (2, 0), (3, 0)]
    with pytest.raises(SlowConsumerError):
        await small.get(20.0)
    assert small.ended


async def test_reader_that_waits_is_woken() -> None:
    """Two readers share a subscription; each message goes to one of them."""
    shared = subscription()
    readers = [asyncio.create_task(shared.get(20.0)) for _ in range(2)]
    await asyncio.sleep(0)
    offer(shared, 1, 2)
    assert {message.data for message in await asyncio.gather(*readers)} == {1, 2}


async def test_giving_up_waiting_loses_nothing() -> None:
    """A reader with a deadline can come back."""
    patient = subscription()
    with pytest.raises(TimeoutError):
        await patient.get(0.01)
    offer(patient, 1)
    assert await drain(patient) == [(1, 0)]


async def test_end_wakes_readers() -> None:
    """A closed subscription ends every iteration, and takes nothing more."""
    closing = subscription()
    readers = [asyncio.create_task(closing.get(20.0)) for _ in range(2)]
    await asyncio.sleep(0)
    await closing.close()
    for reader in readers:
        with pytest.raises(StopAsyncIteration):
            await reader
    offer(closing, 1)
    assert closing.waiting == 0


async def test_leaving_the_block_closes() -> None:
    """`async with` unsubscribes once, whatever happens inside."""
    closed: list[Subscription] = []

    async def note(which: Subscription) -> None:
        closed.append(which)

    async with Subscription(("c",), note) as inside:
        await inside.close()
    assert closed == [inside]


def test_queue_has_room_for_one() -> None:
    """A queue without room would drop everything."""
    with pytest.raises(ConfigurationError):
        subscription(0)
