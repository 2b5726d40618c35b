"""Recounting a day from the stream, and what that finds."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any

import pytest

from artcafe_common.bus import Bus
from artcafe_common.contracts.metering import UsageRow
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_devstack.servers import RunningServer
from artcafe_metering import batches, differences, keys, reconcile
from artcafe_metering.counters import ValkeyCounters
from artcafe_metering.figures import Figures
from artcafe_metering.outcomes import Difference, Part, Parts
from artcafe_metering.periods import Retention, utc
from artcafe_metering.reconcile import Pace
from artcafe_metering.reconciled import ReconciledDay
from artcafe_metering.recount import Recount
from artcafe_metering.requeue import requeue
from artcafe_metering.valkey import Valkey

from .reconcile_support import DAY, DAY_SECONDS, Office, at

WAITING = "waiting until metering has counted 1 batches"


async def test_a_day_is_recounted_and_a_difference_is_told(
    office: Office, sender: Any, replica_of: Any, store: Any, until: Any
) -> None:
    """Repeated batches and other days do not disturb; a changed counter is found, up or down."""
    yesterday, reconciler = office.yesterday, office.reconciler()
    rows = [UsageRow("t1", "a1", "c1", messages=2, bytes_in=5), UsageRow("t2", api_calls=1)]
    for seq in range(1, 701):
        await sender.batch("s1", seq, *rows, at=at(yesterday))
    await sender.batch("s1", 3, *rows, at=at(yesterday), named=False)
    await sender.batch("s1", 701, *rows, at=at(yesterday - 2 * DAY))
    await sender.raw("s1", b"nothing")
    await replica_of()
    await until(sender.unacknowledged, 0)

    async def told(tenant_id: str) -> ReconciledDay:
        before, day = await office.told(tenant_id, 2)
        assert before.result == "not_compared"
        return day

    assert (await told("t1")).result == "not_compared"
    outcome = await reconciler.compare(yesterday)
    assert (outcome.batches, outcome.comparison.tenants, outcome.differences) == (700, 2, [])
    assert (await told("t1")).result == (await told("t4")).result == "equal"
    await store.redis.hincrby(keys.day_key("t1", yesterday), "messages", 3)
    await store.redis.delete(keys.day_key("t2", yesterday))
    await store.redis.hset(keys.day_key("t3", yesterday), "messages", 1)
    assert (await reconciler.compare(yesterday)).differences == [
        Difference("t1", Figures(1403, bytes_in=3500), Figures(1400, bytes_in=3500)),
        Difference("t2", Figures(), Figures(api_calls=700)),
        Difference("t3", Figures(1), Figures()),
    ]
    day = await told("t1")
    assert day.counted is not None and day.recounted is not None
    assert (day.result, day.counted.messages, day.recounted.messages) == ("different", 1403, 1400)
    assert (await told("t4")).result == "equal"
    assert await store.redis.ttl(keys.reconciled_key(yesterday)) > 89 * DAY_SECONDS
    assert await store.redis.ttl(keys.changed_key(yesterday)) > 89 * DAY_SECONDS
    await store.redis.hincrby(keys.day_key("t1", yesterday), "messages", -3)
    await reconciler.compare(yesterday)
    assert (await told("t1")).result == "equal"
    with pytest.raises(ServiceError, match="not closed"):
        await reconciler.compare(office.today)


async def test_rows_that_were_put_aside_are_recounted_as_they_were_counted(
    bus: Bus, office: Office, sender: Any, replica_of: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while they are aside nor after a newer version has put them back do they make a difference."""
    day, reconciler = office.yesterday, office.reconciler()
    rows = UsageRow("t1", "a1", messages=1), UsageRow("t1", "a*", messages=2)
    await sender.batch("s1", 1, *rows, at=at(day))
    await replica_of()
    await until(sender.unacknowledged, 0)
    assert (await reconciler.compare(day)).differences == []
    monkeypatch.setattr(batches, "_wrong_id", lambda *_: "")
    (difference,) = (await reconciler.compare(day)).differences
    assert (difference.counted.messages, difference.recounted.messages) == (1, 3)
    await requeue(bus.jetstream(), at(day) - 1, office.clock.now(), lambda _: None, really=True)
    await until(sender.unacknowledged, 0)
    assert (await reconciler.compare(day)).differences == []


async def test_agents_and_channels_are_compared(
    office: Office, sender: Any, replica_of: Any, store: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is billed by agent or channel is compared, too, where the tenant's sum is right."""
    monkeypatch.setattr(differences, "NAMED_OF_TENANT_MAX", 3)
    yesterday, reconciler = office.yesterday, office.reconciler()
    rows = [UsageRow("t1", f"agent-{number:03}", f"c{number % 2}", messages=number) for number in range(900)]
    await sender.batch("s1", 1, *rows, at=at(yesterday))
    await sender.batch("s1", 2, *rows[:10], UsageRow("t2", "a1", "c1", messages=1), at=at(yesterday))
    await replica_of()
    await until(sender.unacknowledged, 0)
    assert (await reconciler.compare(yesterday)).differences == []
    of_agents = keys.breakdown_key(keys.day_key("t1", yesterday), "agent")
    wrong = keys.PACKED.pack(1, 0, 0, 0, 0, 0)
    await store.redis.hset(of_agents, "agent-005", wrong)
    await store.redis.hset(of_agents, "stranger", wrong)
    await store.redis.hdel(of_agents, "agent-007")
    sums = Figures(sum(range(900)) + sum(range(10)))
    named = [("agent-005", 1, 10), ("agent-007", 0, 14), ("stranger", 1, 0)]
    parts = tuple(Part(name, Figures(counted), Figures(other)) for name, counted, other in named)
    outcome = await reconciler.compare(yesterday)
    assert outcome.differences == [Difference("t1", sums, sums, {"agent": Parts(3, parts)})]
    (day,) = await office.told("t1")
    assert (day.result, day.counted, day.agents_different, day.channels_different) == (
        "different", day.recounted, 3, 0
    )  # fmt: skip
    told = [(each.agent_id, each.counted.messages, each.recounted.messages) for each in day.groups]
    assert told == named
    assert (await office.told("t2"))[0].result == "equal"
    # Names are bounded, also in all; numbers are not.
    monkeypatch.setattr(differences, "NAMED_MAX", 4)
    await store.redis.delete(of_agents, keys.breakdown_key(keys.day_key("t1", yesterday), "channel"))
    await store.redis.delete(keys.day_key("t1", yesterday))
    await reconciler.compare(yesterday)
    (day,) = await office.told("t1")
    assert (day.agents_different, day.channels_different) == (899, 2)
    assert [each.agent_id or each.channel_id for each in day.groups] == [
        "agent-001", "agent-002", "agent-003", "c0"
    ]  # fmt: skip


async def test_what_is_not_applied_yet_is_no_difference(
    office: Office, sender: Any, replica_of: Any, until: Any
) -> None:
    """While batches wait nothing is told and nothing kept; when they are applied, all is equal."""
    await sender.batch("s1", 1, at=at(office.yesterday))
    impatient = office.reconciler(pace=Pace(backlog=0.2))
    with pytest.raises(ServiceError, match="not begun") as caught:
        await impatient.compare(office.yesterday)
    replica = await replica_of()
    await until(sender.unacknowledged, 0)
    await replica.stop()
    await sender.batch("s1", 2, at=at(office.yesterday))
    said: list[str] = []
    with pytest.raises(ServiceError, match="1 batches in the stream are not counted yet") as caught:
        await impatient.compare(office.yesterday, said.append)
    assert caught.value.code is ErrorCode.UNAVAILABLE
    # It did not recount before it knew.
    assert said == [WAITING]
    assert (await office.told("t1"))[0].result == "not_compared"
    said.clear()
    waiting = asyncio.create_task(office.reconciler().compare(office.yesterday, said.append))

    async def is_said() -> bool:
        return WAITING in said

    await until(is_said)
    await replica_of()
    assert (await waiting).differences == []
    assert (await office.told("t1"))[0].result == "equal"


async def test_what_came_during_the_recount_is_waited_for(
    office: Office, sender: Any, replica_of: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that was recounted is in no counter before it is applied, so nothing is told before that."""
    await sender.batch("s1", 1, at=at(office.yesterday))
    replica = await replica_of()
    await until(sender.unacknowledged, 0)
    await replica.stop()

    class Late(Recount):
        async def read_on(self) -> int:
            await sender.batch("s1", 2, at=at(office.yesterday))
            return await super().read_on()

    monkeypatch.setattr(reconcile, "Recount", Late)
    said: list[str] = []
    comparing = asyncio.create_task(office.reconciler().compare(office.yesterday, said.append))

    async def is_said() -> bool:
        return WAITING in said

    await until(is_said)
    await replica_of()
    outcome = await comparing
    assert (outcome.batches, outcome.differences) == (2, [])


class Busy(ValkeyCounters):
    """Counters for which more is counted as soon as somebody begins to read them."""

    def __init__(self, valkey: Valkey, count: Callable[[], Any], times: int) -> None:
        super().__init__(valkey)
        self._count = count
        self._left = times

    async def tenants_of(self, day: date) -> set[str]:
        """Count, and return the tenants that have counters of a day."""
        if self._left:
            self._left -= 1
            await self._count()
        return await super().tenants_of(day)


async def test_what_is_counted_meanwhile_is_no_difference(
    office: Office, sender: Any, replica_of: Any, store: Any, until: Any
) -> None:
    """A late batch between the recount and the counters is recounted; if more come the day is put off."""
    await replica_of()
    seq = 0

    async def count() -> None:
        nonlocal seq
        seq += 1
        await sender.batch("s1", seq, at=at(office.yesterday))
        # NATS may acknowledge a batch before its consumer knows of it: nothing is pending in between.
        await until(lambda: store.messages("t1"), seq)

    await count()
    outcome = await office.reconciler(Busy(office.valkey, count, 1)).compare(office.yesterday)
    assert (outcome.batches, outcome.differences) == (2, [])
    with pytest.raises(ServiceError, match="is being counted"):
        await office.reconciler(Busy(office.valkey, count, 100)).compare(office.yesterday)


async def test_a_day_that_is_not_whole_is_not_compared(
    bus: Bus, office: Office, sender: Any, replica_of: Any, until: Any
) -> None:
    """What the stream has forgotten cannot be recounted; while it has forgotten nothing every day can."""
    day = office.today - 8 * DAY
    for seq in (1, 2):
        await sender.batch("s1", seq, at=at(day))
    await replica_of()
    await until(sender.unacknowledged, 0)
    assert (await office.reconciler().compare(day)).batches == 2
    await bus.jetstream().purge_stream("USAGE", seq=2)
    with pytest.raises(ServiceError, match="no longer whole") as caught:
        await office.reconciler().compare(day)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    assert (await office.reconciler().compare(office.yesterday)).batches == 0


async def test_days_of_which_no_outcome_is_kept_any_more_are_refused(office: Office) -> None:
    """They may have been compared: an answer that they were not would be wrong."""
    kept = Retention().days
    assert [each.result for each in await office.told("t1", kept)] == ["not_compared"] * kept
    with pytest.raises(ServiceError, match="kept since") as caught:
        await office.told("t1", kept + 1)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


async def test_a_batch_of_the_future_is_judged_as_when_it_came(
    office: Office, sender: Any, replica_of: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was refused, since it came long before its time, is not recounted when that time has come."""
    # What is a minute old counts as too early: so it is of a day that the stream is read for at any hour.
    monkeypatch.setattr(batches, "FUTURE_SECONDS_MAX", -3600.0)
    start = time.time() - 60
    await sender.batch("s1", 1, at=start)
    await replica_of()
    await until(sender.unacknowledged, 0)
    office.clock.days = 3
    outcome = await office.reconciler().compare(utc(start).date())
    assert (outcome.batches, outcome.differences) == (0, [])


@pytest.fixture
def command(nats: RunningServer, valkey: RunningServer) -> Callable[[date], Awaitable[tuple[int, str]]]:
    """Run the command as an operator does; give its status and what it says."""

    async def run(day: date) -> tuple[int, str]:
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        environment |= {"NATS_URL": nats.url, "REDIS_URL": valkey.url}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "artcafe_metering", "reconcile", "--date", str(day),
            env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    return run


async def test_the_command_tells_what_it_found(
    command: Any, office: Office, sender: Any, replica_of: Any, store: Any, until: Any
) -> None:
    """It names tenants, agents and channels that differ, and says why it cannot tell."""
    day = office.today - 2 * DAY
    await sender.batch("s1", 1, at=at(day))
    status, output = await command(day)
    assert (status, output.splitlines()[-1]) == (
        1,
        "reconcile: unavailable: metering has not begun to read the stream: try again when it runs",
    )
    await replica_of()
    await until(sender.unacknowledged, 0)
    status, output = await command(day)
    assert (status, output.splitlines()[1:]) == (
        0, [f"{day}: 1 batches of 1 tenants recounted", "no difference"]
    )  # fmt: skip
    channels = keys.breakdown_key(keys.day_key("t1", day), "channel")
    await store.redis.hset(channels, "c1", keys.PACKED.pack(2, 0, 10, 0, 0, 0))
    status, output = await command(day)
    assert status == 1
    both = f"counted {Figures(2, bytes_in=10)}, recounted {Figures(1, bytes_in=10)}"
    assert output.splitlines()[-2:] == [f"  channel c1: {both}", "1 tenants differ"]
    assert (await office.told("t1", 2))[0].result == "different"
