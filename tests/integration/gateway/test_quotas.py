"""A used-up month at the gateway's sockets, with metering played by the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from artcafe_common import allowance
from artcafe_common.contracts.metering import GET_MONTHS, GetMonths, Months
from artcafe_common.contracts.registry import Limits
from artcafe_common.rpc import serve

QUOTA = {"resource": "messages_per_month", "plan": "free"}


@pytest.fixture
async def counted(world: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, int]]:
    """Play metering: the messages it has counted of each tenant."""
    # However busy the machine is, nobody goes on without its answer.
    for limit in ("ANSWER_SECONDS", "FIRST_SECONDS"):
        monkeypatch.setattr(allowance, limit, 30.0)
    messages: dict[str, int] = {}

    async def months(request: GetMonths) -> Months:
        return Months(
            month=request.month, messages={name: messages.get(name, 0) for name in request.tenant_ids}
        )

    async with serve(world.bus, GET_MONTHS, months, queue="metering"):
        yield messages


async def test_publishes_over_the_month_are_refused_and_all_else_goes_on(
    world: Any, counted: dict[str, int], gateway: Any
) -> None:
    """The limit is exact; over it agents still connect, subscribe and receive, in other tenants publish."""
    world.tenant("t1", plan="free", limits=Limits(messages_per_month=10))
    counted["t1"] = 8
    alice = await gateway.agent("alice")
    for number in range(3):
        await alice.send(type="publish", channel="c", data=number, id=number)
    for number in range(2):
        await alice.expect("published", id=number)
    refused = await alice.expect("error", code="resource_exhausted", id=2)
    assert refused.items() >= (QUOTA | {"current": 10, "limit": 10}).items()
    bob = await gateway.agent("bob")
    await bob.subscribe("c")
    desk = await gateway.dashboard("ann")
    await desk.until("quota", percent=100, current=10, limit=10, **QUOTA)
    await desk.send(type="publish_channel", channel_id="c", data=1, id="d")
    await desk.expect("error", code="resource_exhausted", id="d", **QUOTA)
    await bob.nothing()
    other = await gateway.agent("carol", "t2")
    await other.send(type="publish", channel="c", data=1, id=1)
    await other.expect("published", id=1)


async def test_what_is_accepted_elsewhere_uses_the_month_up_here(
    world: Any, counted: dict[str, int], gateway: Any
) -> None:
    """Within seconds of metering's counting it a gateway refuses, though little was published there."""
    world.tenant("t1", plan="free", limits=Limits(messages_per_month=1000))
    alice = await gateway.agent("alice")
    await alice.send(type="publish", channel="c", data=0, id="first")
    await alice.expect("published", id="first")
    counted["t1"] = 1000
    await alice.send(type="publish", channel="c", data=0, id="asks")
    await alice.expect("published", id="asks")
    number = 0
    while True:
        number += 1
        await alice.send(type="publish", channel="c", data=0, id=number)
        answer = await alice.receive()
        if answer["type"] == "error":
            break
    assert answer.items() >= (QUOTA | {"current": 1000, "limit": 1000}).items()


async def test_another_plan_holds_at_once(world: Any, counted: dict[str, int], gateway: Any) -> None:
    """An upgrade lets the open socket publish on, and a dashboard hears that there is room again."""
    world.tenant("t1", plan="free", limits=Limits(messages_per_month=10))
    counted["t1"] = 10
    alice = await gateway.agent("alice")
    await alice.send(type="publish", channel="c", data=0, id=1)
    await alice.expect("error", code="resource_exhausted", id=1)
    desk = await gateway.dashboard("ann")
    await desk.expect("quota", percent=100)
    world.tenant("t1", plan="pro", limits=Limits(messages_per_month=1000))
    world.changed("t1", "tenant", "t1")
    await desk.expect("quota", percent=0, plan="pro", limit=1000, current=10)
    await alice.send(type="publish", channel="c", data=0, id=2)
    await alice.expect("published", id=2)


async def test_dashboards_hear_of_each_threshold_once(
    world: Any, counted: dict[str, int], gateway: Any
) -> None:
    """80 and 100 percent reach every dashboard of the tenant once, also when nothing is published here."""
    world.tenant("t1", plan="free", limits=Limits(messages_per_month=100))
    first, second = await gateway.dashboard("ann"), await gateway.dashboard("ann")
    other = await gateway.dashboard("eve", "t2")
    counted["t1"] = 80
    for desk in (first, second):
        told = await desk.expect("quota", percent=80, current=80, limit=100, **QUOTA)
        assert len(told["month"]) == 7
    late = await gateway.dashboard("bob")
    await late.expect("quota", percent=80)
    counted["t1"] = 100
    for desk in (first, second, late):
        await desk.expect("quota", percent=100, current=100)
    counted["t1"] = 110
    await first.socket.close()
    again = await gateway.dashboard("ann")
    await again.expect("quota", percent=100)
    for desk in (second, late, again, other):
        await desk.nothing()


async def test_without_metering_nobody_is_refused(world: Any, gateway: Any) -> None:
    """A metering that is away costs a new socket no more than a moment, and no message."""
    world.tenant("t1", plan="free", limits=Limits(messages_per_month=5))
    alice = await gateway.agent("alice")
    for number in range(6):
        await alice.send(type="publish", channel="c", data=number, id=number)
    for number in range(5):
        await alice.expect("published", id=number)
    await alice.expect("error", code="resource_exhausted", id=5, current=5, **QUOTA)
