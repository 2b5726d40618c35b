"""When days are compared, by which replica, and what the metrics show of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from artcafe_devstack.servers import RunningServer
from artcafe_metering import keys, metrics
from artcafe_metering.outcomes import Outcome
from artcafe_metering.periods import Retention
from artcafe_metering.reconcile import Pace
from artcafe_metering.reconciled import Reconciled
from artcafe_metering.valkey import Valkey

from .reconcile_support import DAY, Office, at

LEASE_KEY = "lease:reconcile"


def shown(gauge: Any) -> float:
    """Return what a metric shows."""
    return float(gauge._value.get())


def apart(figure: str = "messages", scope: str = "tenant") -> float:
    """Return what the metric of differences shows."""
    return shown(metrics.RECONCILE_DIFFERENCE.labels(figure, scope))


async def test_all_days_that_the_stream_holds_are_compared(
    office: Office, sender: Any, replica_of: Any, store: Any, until: Any
) -> None:
    """Not only the last one, each once, and again when something was counted for it."""
    await replica_of()
    for number in range(1, 10):
        await sender.batch("s1", number, at=at(office.today - number * DAY))
    await until(sender.unacknowledged, 0)
    # What an earlier version has kept tells nothing of agents and channels.
    await store.redis.hset(keys.reconciled_key(office.yesterday), "", "2026-01-01T00:00:00Z")
    kept: list[date] = []

    class Noting(Reconciled):
        async def keep(self, outcome: Outcome, now: float) -> None:
            await super().keep(outcome, now)
            kept.append(outcome.day)

    async def days() -> list[date]:
        return kept

    held = [office.today - number * DAY for number in range(6, 0, -1)]
    results = ["not_compared"] * 3 + ["equal"] * 6
    async with office.running(Noting(office.valkey, Retention())):
        await until(days, held)
        await until(office.results("t1", 9), results)
        await sender.batch("s1", 10, at=at(held[2]))
        await until(days, [*held, held[2]])
        await store.redis.hincrby(keys.day_key("t1", held[4]), "messages", 1)
        await sender.batch("s1", 11, at=at(held[4]))
        await until(days, [*held, held[2], held[4]])
    results[-2] = "different"
    assert await office.results("t1", 9)() == results


async def test_the_metrics_show_what_is_stored(
    office: Office, sender: Any, replica_of: Any, store: Any, until: Any
) -> None:
    """Every replica shows a difference that any has found, and its end; and since when a day waits."""
    replica = await replica_of()
    await sender.batch("s1", 1, at=at(office.yesterday))
    await sender.batch("s1", 2, at=at(office.today - 2 * DAY))
    await until(sender.unacknowledged, 0)
    await replica.stop()
    counter = keys.day_key("t1", office.yesterday)
    await store.redis.hincrby(counter, "messages", 3)
    await store.redis.hset(keys.breakdown_key(counter, "channel"), "c1", keys.PACKED.pack(1, 0, 3, 0, 0, 0))
    metrics.RECONCILE_LAG.set(0)
    # It is there without being applied: until it is, no day can be compared.
    await sender.batch("s1", 3, at=at(office.today - 2 * DAY))

    async def differences() -> tuple[float, ...]:
        return apart(), apart("bytes_in"), apart(scope="agent"), apart("bytes_in", "channel")

    async def lag() -> float:
        return shown(metrics.RECONCILE_LAG)

    impatient = office.reconciler(pace=Pace(look=0.05, retry=0.1, backlog=0.1))
    running = asyncio.create_task(impatient.run())
    # Closed at two o'clock of the following day.
    await until(lag, (DAY + timedelta(hours=10)).total_seconds())
    running.cancel()
    await replica_of()
    await until(sender.unacknowledged, 0)
    await office.reconciler().compare(office.yesterday)
    await office.reconciler().compare(office.today - 2 * DAY)
    async with office.running():
        await until(differences, (3, 0, 0, 7))
        await until(lag, 0)
        await store.redis.hincrby(counter, "messages", -3)
        await store.redis.hset(
            keys.breakdown_key(counter, "channel"), "c1", keys.PACKED.pack(1, 0, 10, 0, 0, 0)
        )
        await office.reconciler().compare(office.yesterday)
        await until(differences, (0, 0, 0, 0))
    # A day that nobody has compared is told of also when it is too late for that.
    await store.redis.delete(keys.reconciled_key(office.yesterday))
    office.clock.days = 8
    running = asyncio.create_task(impatient.run())
    await until(lag, (8 * DAY + timedelta(hours=10)).total_seconds())
    running.cancel()
    await asyncio.wait([running])


class Stuck(Reconciled):
    """Keeps no outcome, but stays in the middle of it."""

    def __init__(self, valkey: Valkey) -> None:
        super().__init__(valkey, Retention())
        self.is_there = asyncio.Event()

    async def keep(self, outcome: Outcome, now: float) -> None:
        """Stay."""
        self.is_there.set()
        await asyncio.Event().wait()


async def test_a_difference_shows_while_other_days_are_compared(
    office: Office, sender: Any, replica_of: Any, store: Any, until: Any
) -> None:
    """It takes long to compare days: what was found in one is shown before the next one is done."""
    oldest = office.today - 6 * DAY
    await sender.batch("s1", 1, at=at(oldest))
    await replica_of()
    await until(sender.unacknowledged, 0)
    await store.redis.hincrby(keys.day_key("t1", oldest), "messages", 5)

    class StuckLater(Stuck):
        async def keep(self, outcome: Outcome, now: float) -> None:
            if outcome.day != oldest:
                await super().keep(outcome, now)
            await Reconciled.keep(self, outcome, now)

    async def difference() -> float:
        return apart()

    async with office.running(StuckLater(office.valkey)):
        await until(difference, 5)


async def test_a_replica_that_is_stopped_leaves_its_day_to_others(
    office: Office, until: Any, sender: Any
) -> None:
    """SIGTERM in the middle of comparing: the next one begins at once, not when the lease has run out."""
    stuck = Stuck(office.valkey)
    async with office.running(stuck):
        await stuck.is_there.wait()
        async with office.running():
            # The other one is at it.
            assert await office.results("t1", 6)() == ["not_compared"] * 6
    async with office.running():
        await until(office.results("t1", 6), ["equal"] * 6)


DYING = """
import asyncio, sys
from artcafe_common.bus import Bus
from artcafe_metering.counters import ValkeyCounters
from artcafe_metering.periods import Retention
from artcafe_metering.reconcile import Pace, Reconciler
from artcafe_metering.reconciled import Reconciled
from artcafe_metering.valkey import Valkey
from artcafe_common.clock import SystemClock

class Stuck(Reconciled):
    async def keep(self, outcome, now):
        print("in the middle", flush=True)
        await asyncio.Event().wait()

async def main():
    valkey = Valkey(sys.argv[2], 1)
    bus = await Bus.open(sys.argv[1], name="metering")
    stuck = Stuck(valkey, Retention())
    counters, pace = ValkeyCounters(valkey), Pace(look=0.05, lease=600)
    await Reconciler(bus, valkey, counters, SystemClock(), stuck, pace).run()

asyncio.run(main())
"""


@contextmanager
def dying(*arguments: str, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a replica as a process, and kill it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", DYING, *arguments], env=environment, stdout=file, stderr=file
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


async def test_a_killed_replica_leaves_its_day_to_others(
    office: Office,
    nats: RunningServer,
    valkey: RunningServer,
    sender: Any,
    store: Any,
    until: Any,
    tmp_path: Path,
) -> None:
    """SIGKILL in the middle of comparing: another one compares the day when the lease has run out."""
    output = tmp_path / "dying.log"
    with dying(nats.url, valkey.url, output=output) as process:

        async def is_there() -> bool:
            assert process.poll() is None, output.read_text()
            return "in the middle" in output.read_text()

        await until(is_there)
    assert 0 < await store.redis.ttl(LEASE_KEY) <= 600
    async with office.running():
        assert await office.results("t1", 6)() == ["not_compared"] * 6
        # As if that time were over.
        await store.redis.pexpire(LEASE_KEY, 1)
        await until(office.results("t1", 6), ["equal"] * 6)
