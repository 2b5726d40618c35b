"""When a process is known to live, and when another one takes over what it left."""

from __future__ import annotations

from typing import cast

import pytest
from gateway_fakes import House, settle

from artcafe_common.bus import Bus
from artcafe_common.clock import rfc3339
from artcafe_common.errors import ServiceError, unavailable
from artcafe_gateway.lease import RENEWALS, Lease
from artcafe_gateway.store import ConnectionStore, Holder, Orphan

TIMEOUT = 45.0


@pytest.fixture
async def lease(house: House) -> Lease:
    """Give the lease of this process, while another one has left an orphan."""
    house.store.lease_times = {"me": house.clock.now(), "dead": house.clock.now() - 1000}
    house.store.orphans = {"dead": [Orphan("t", "alice", "C1", 7, False)]}
    house.store.holders["t", "alice"] = Holder("dead", "C1")
    return Lease(
        cast(Bus, house.bus),
        cast(ConnectionStore, house.store),
        house.clock,
        house.presences,
        "me",
        timeout=TIMEOUT,
        sweep_interval=20.0,
    )


async def live(house: House, lease: Lease, seconds: float) -> None:
    """Let time pass in which this process renews its lease as it does."""
    while seconds > 0:
        step = min(seconds, TIMEOUT / RENEWALS)
        house.clock.move(step)
        await lease.renew()
        seconds -= step


async def sweeps_after_a_full_timeout(house: House, lease: Lease) -> None:
    """Expect that the dead process is left alone for the whole timeout from now on, and then swept."""
    await live(house, lease, TIMEOUT - 1)
    await lease.sweep()
    assert house.announced() == [] and house.store.dropped == []
    await live(house, lease, 2)
    await lease.sweep()
    assert house.announced() == [("offline", "its gateway ended")]
    assert house.store.dropped == ["dead"]


async def test_nobody_is_declared_dead_before_a_full_timeout_has_passed(house: House, lease: Lease) -> None:
    """A process that has just started waits as long as others have to renew, then sweeps."""
    await lease.sweep()
    await lease.renew()
    await sweeps_after_a_full_timeout(house, lease)


async def test_an_agent_was_last_heard_of_when_its_process_last_lived(house: House, lease: Lease) -> None:
    """However long ago it had connected; one that came after that was heard of when it did."""
    lived_at = house.clock.now() - 1000
    later = Orphan("t", "bob", "C2", int((lived_at + 5) * 1000), False)
    house.store.orphans["dead"].append(later)
    house.store.holders["t", "bob"] = Holder("dead", "C2")
    await lease.renew()
    await live(house, lease, TIMEOUT + 1)
    await lease.sweep()
    told = [presence.last_seen for who in ("alice", "bob") for presence in house.presence_events(who)]
    assert told == [rfc3339(lived_at), rfc3339(lived_at + 5)]


async def test_a_process_that_renews_in_time_is_left_alone(house: House, lease: Lease) -> None:
    """Only a lease that is older than the timeout is given up, and never the own one."""
    await lease.renew()
    await live(house, lease, TIMEOUT + 1)
    house.store.lease_times = {"dead": house.clock.now() - TIMEOUT + 1, "me": 0.0}
    await lease.sweep()
    assert house.announced() == [] and house.store.dropped == []


async def test_after_the_store_was_away_everyone_has_the_full_time_again(house: House, lease: Lease) -> None:
    """A lease that nobody could renew says nothing about its process."""
    await lease.renew()
    await live(house, lease, TIMEOUT + 1)
    house.store.error = unavailable("store")
    with pytest.raises(ServiceError):
        await lease.renew()
    house.store.error = None
    await lease.sweep()
    await lease.renew()
    await sweeps_after_a_full_timeout(house, lease)


@pytest.mark.parametrize("suspended", [False, True])
async def test_who_stood_still_declares_nobody_dead_who_may_have_done_so_too(
    house: House, lease: Lease, suspended: bool
) -> None:
    """Of processes on one machine that was held up, or suspended, the first that wakes up waits."""
    await lease.renew()
    await live(house, lease, TIMEOUT + 1)
    house.clock.move(TIMEOUT + 1)
    if suspended:
        # The monotonic clock was as well.
        house.clock.elapsed -= TIMEOUT + 1
    await lease.sweep()
    await lease.renew()
    await lease.sweep()
    await sweeps_after_a_full_timeout(house, lease)


async def test_without_the_bus_nobody_is_swept(house: House, lease: Lease) -> None:
    """What could not be announced would be lost."""
    await lease.renew()
    await live(house, lease, TIMEOUT + 1)
    house.bus.is_connected = False
    await lease.sweep()
    assert house.store.dropped == []


async def test_a_process_that_was_late_looks_what_others_have_given_up(house: House, lease: Lease) -> None:
    """After a freeze as long as the timeout its sessions are compared with the store."""
    session, transport = house.open("bob")
    del house.store.holders["t", "bob"]
    await lease.renew()
    house.clock.move(TIMEOUT - 1)
    await lease.renew()
    await settle()
    assert not session.connection.closing
    house.clock.move(TIMEOUT + 1)
    await lease.renew()
    await settle()
    assert transport.close_codes == [1012]


async def test_an_orphan_that_came_back_is_not_announced(house: House, lease: Lease) -> None:
    """Its record names another connection by now."""
    await lease.renew()
    await live(house, lease, TIMEOUT + 1)
    house.store.holders["t", "alice"] = Holder("alive", "C2")
    await lease.sweep()
    assert house.announced() == []
    assert house.store.dropped == ["dead"]
