"""From which gateway a message came."""

from __future__ import annotations

from typing import cast

from gateway_fakes import START, FakeClock, FakeStore, settle

from artcafe_common.errors import unavailable
from artcafe_common.ids import REST, MessageIds, new_ulid
from artcafe_gateway.preview.origin import REFRESH_SECONDS, UNKNOWN, Origins
from artcafe_gateway.store import ConnectionStore

MINE, OTHER = f"gateway-1-{new_ulid()}", f"gateway-two-2-{new_ulid()}"


def origins(store: FakeStore, clock: FakeClock) -> Origins:
    """Return the origins as one gateway sees them."""
    return Origins(cast(ConnectionStore, store), clock, MINE)


async def test_own_messages_are_known_at_once(clock: FakeClock) -> None:
    """Nobody is asked."""
    store = FakeStore()
    assert origins(store, clock).gateway_of(MessageIds(MINE).new(START)) == "gateway-1"


async def test_other_gateways_are_known_by_their_leases(clock: FakeClock) -> None:
    """By the name that they were given, whatever it looks like."""
    store = FakeStore()
    store.lease_times[OTHER] = START
    known = origins(store, clock)
    await known.ready()
    assert known.gateway_of(MessageIds(OTHER).new(START)) == "gateway-two-2"
    assert known.gateway_of(MessageIds(MINE).new(START)) == "gateway-1"


class Counting(FakeStore):
    """A store that knows how often it was asked."""

    asked = 0

    async def leases(self) -> dict[str, float]:
        """Return the leases."""
        self.asked += 1
        return await super().leases()


async def test_what_came_by_rest_came_by_no_gateway(clock: FakeClock) -> None:
    """That is known without asking anybody."""
    store = Counting()
    known = origins(store, clock)
    assert known.gateway_of(MessageIds(REST).new(START)) is None
    await settle()
    assert store.asked == 0


async def test_what_is_not_known_is_not_said_to_have_come_by_rest(clock: FakeClock) -> None:
    """A gateway that has just started or has ended; it is asked for now and then, not for each message."""
    store = Counting()
    known = origins(store, clock)
    for _ in range(100):
        assert known.gateway_of(MessageIds(OTHER).new(START)) == UNKNOWN
        await settle(1)
    assert store.asked == 1
    clock.move(REFRESH_SECONDS)
    assert known.gateway_of(new_ulid(START)) == UNKNOWN
    store.lease_times[OTHER] = START
    await settle()
    assert known.gateway_of(MessageIds(OTHER).new(START)) == "gateway-two-2"
    store.lease_times.clear()
    clock.move(REFRESH_SECONDS)
    assert known.gateway_of(new_ulid(START)) == UNKNOWN
    await settle()
    # One that has ended is forgotten.
    assert known.gateway_of(MessageIds(OTHER).new(START)) == UNKNOWN


async def test_a_store_that_is_away_costs_only_the_name(clock: FakeClock) -> None:
    """Paths are shown without it until the store answers."""

    class Away(FakeStore):
        async def leases(self) -> dict[str, float]:
            self.check()
            return await super().leases()

    store = Away()
    store.error = unavailable("store")
    store.lease_times[OTHER] = START
    known = origins(store, clock)
    assert known.gateway_of(MessageIds(OTHER).new(START)) == UNKNOWN
    await settle()
    store.error = None
    clock.move(REFRESH_SECONDS)
    known.refresh()
    await known.close()
    assert known.gateway_of(MessageIds(OTHER).new(START)) == "gateway-two-2"
