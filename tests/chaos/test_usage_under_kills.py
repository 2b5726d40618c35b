"""Usage is what publishers saw accepted, whatever is killed meanwhile.

`make test-chaos CHAOS_SECONDS=600` goes on for longer; CHAOS_SEED repeats the order of a run.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from artcafe_common.starting import cancel_all
from artcafe_devstack.devstack import DevStack

from .load import Organisation
from .verdict import Message, Seen, WrongUsage, counted_of_lost

TENANTS = 5
AGENTS = 10
CHANNELS = ("team.updates", "orders", "a", "b.c.d")
PUBLISHERS = ("gateway-1", "gateway-2", "registry", "metering")
VICTIMS = (*PUBLISHERS, "valkey", "nats")
READY_SECONDS = 120.0
SETTLE_SECONDS = 120.0
STEADY_SECONDS = 3.0
# How often a part is killed while another one is away.
OVERLAPS = 0.4
# A killed gateway takes its last second of deliveries along, of the many seconds between two kills.
DELIVERIES_LEFT = 0.5


async def test_usage_equals_what_publishers_saw_accepted(
    stack: DevStack,
    new_tenant: Callable[..., Awaitable[Any]],
    chance: random.Random,
    chaos_seconds: float,
) -> None:
    """Fifty agents and five people publish while each part is killed; then every figure is explained."""
    organisations = [Organisation(await new_tenant(), CHANNELS, chance) for _ in range(TENANTS)]
    await asyncio.gather(*(each.set_up(AGENTS) for each in organisations))
    listening = [asyncio.create_task(each.listen()) for each in organisations]
    counted: dict[Organisation, list[Message]] = {each: [] for each in organisations}
    ends = time.monotonic() + chaos_seconds
    rounds = 0
    while rounds == 0 or time.monotonic() < ends:
        rounds += 1
        stop = asyncio.Event()
        publishing = [asyncio.create_task(each.publish(stop)) for each in organisations]
        await _kill_each(stack, chance)
        stop.set()
        await asyncio.gather(*publishing)
        for each in organisations:
            counted[each] += await _verdict(each, counted[each])
        print(
            f"chaos: round {rounds}: {sum(map(len, counted.values()))} messages are counted as they must be"
        )
    assert not any(task.done() for task in listening), "somebody has stopped listening"
    await cancel_all(listening)
    for each in organisations:
        assert each.seen.heard and not each.foreign, "a reader got nothing, or messages of other tenants"
        await _other_figures(each, len(counted[each]))
    assert _files(stack) == dict.fromkeys(PUBLISHERS, 1), "something was left behind"


async def _kill_each(stack: DevStack, chance: random.Random) -> None:
    """Kill each part once, in random order, under load; some while the one before is still away."""
    away: list[str] = []
    for name in chance.sample(VICTIMS, len(VICTIMS)):
        if not away:
            await asyncio.sleep(chance.uniform(0.5, 2.5))
        print(f"chaos: kill -9 {name}" + (f" while {', '.join(away)} is away" if away else ""))
        stack.kill(name)
        away.append(name)
        if len(away) == 1 and chance.random() < OVERLAPS:
            await asyncio.sleep(chance.uniform(0.0, 0.5))
            continue
        await _back(stack, away)
    await _back(stack, away)
    await asyncio.sleep(chance.uniform(0.5, 2.5))


async def _back(stack: DevStack, away: list[str]) -> None:
    """Wait until everything that was killed is ready again."""
    while away:
        await asyncio.to_thread(stack.wait_ready, away.pop(), seconds=READY_SECONDS)


async def _verdict(organisation: Organisation, before: list[Message]) -> list[Message]:
    """Wait until what was seen since the last verdict explains usage, and return what was counted of it."""
    deadline = time.monotonic() + SETTLE_SECONDS
    seen = organisation.seen
    explained: list[Message] | None = None
    since = 0.0
    # It must stay so: nothing that is sent again may count twice.
    while explained is None or time.monotonic() - since < STEADY_SECONDS:
        found = await organisation.usage()
        try:
            lost = None if found is None else counted_of_lost(before, seen, found[0])
        except WrongUsage as wrong:
            if wrong.final or time.monotonic() > deadline:
                raise
            lost = None
        assert lost is not None or time.monotonic() < deadline, "metering does not answer"
        if lost != explained:
            explained, since = lost, time.monotonic()
        await asyncio.sleep(0.5)
    organisation.seen = Seen(heard=seen.heard)
    print(
        f"chaos: {organisation.tenant.tenant_id}: {len(seen.accepted)} accepted, {len(seen.refused)} refused,"
        f" {len(seen.lost)} lost their answer, of which {len(explained)} were counted"
    )
    for publisher in organisation.publishers:
        assert any(each.publisher == publisher for each in seen.accepted), f"{publisher} got nothing done"
    return [*seen.accepted, *explained]


async def _other_figures(organisation: Organisation, messages: int) -> None:
    """Check that what cannot be known exactly lies between what is certain and what is possible."""
    certain = organisation.calls
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        found = await organisation.usage()
        if found is not None and found[1]["api_calls"] >= certain:
            break
        assert time.monotonic() < deadline, f"{found} after {certain} calls"
        await asyncio.sleep(0.5)
    assert found[1]["api_calls"] <= organisation.calls + organisation.calls_lost
    # Each message had one reader. What a killed gateway had handed over last may be missing.
    heard = len(organisation.seen.heard)
    assert DELIVERIES_LEFT * heard <= found[1]["deliveries"] <= messages, f"{found[1]}, {heard} were heard"


def _files(stack: DevStack) -> dict[str, int]:
    """Return how many counter files each publishing process has in its folder."""
    folders = {name: Path(stack.environment(name)["ARTCAFE_STATE_DIR"]) / "usage" for name in PUBLISHERS}
    return {name: len(list(folder.iterdir())) for name, folder in folders.items()}
