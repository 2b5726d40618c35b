"""Readiness."""

from __future__ import annotations

import asyncio
import time

import pytest

from artcafe_common import health, metrics
from artcafe_common.contracts.platform import Dependency
from artcafe_common.errors import unavailable
from artcafe_common.health import Readiness


async def _up() -> None:
    return None


async def _down() -> None:
    raise unavailable("postgres://user:secret@10.0.0.1")


async def _hangs() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def readiness() -> Readiness:
    """The readiness of a process without dependencies."""
    return Readiness("test", "s1", "1.2.3")


async def test_all_up_is_up(readiness: Readiness) -> None:
    """A process whose dependencies are there is up, and says who it is."""
    readiness.add("nats", _up)
    readiness.add("store", _up)
    report = await readiness.report()
    assert (report.service, report.server_id, report.version, report.status) == ("test", "s1", "1.2.3", "up")
    assert [d.name for d in report.dependencies] == ["nats", "store"]


async def test_required_dependency_down_is_down(readiness: Readiness) -> None:
    """A missing dependency makes the process unready and is named; its error's text is not shown."""
    readiness.add("nats", _up)
    readiness.add("store", _down)
    report = await readiness.report()
    assert report.status == "down"
    assert report.dependencies[1] == Dependency(name="store", status="down", detail="ServiceError")


async def test_dependency_that_is_not_required_is_only_shown(readiness: Readiness) -> None:
    """Something that can be done without does not make the process unready."""
    readiness.add("exports", _down, required=False)
    report = await readiness.report()
    assert report.status == "up"
    assert report.dependencies == [
        Dependency(name="exports", status="down", required=False, detail="ServiceError")
    ]


async def test_check_that_hangs_is_down_in_bounded_time(
    readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks run side by side and none longer than its limit."""
    monkeypatch.setattr(health, "CHECK_TIMEOUT_SECONDS", 0.2)
    for number in range(100):
        readiness.add(str(number), _hangs)
    started = time.monotonic()
    report = await readiness.report()
    assert time.monotonic() - started < 10
    assert {d.status for d in report.dependencies} == {"down"}
    assert report.dependencies[0].detail == "TimeoutError"


async def test_process_is_ready_again_by_itself(readiness: Readiness) -> None:
    """Readiness is asked anew each time."""
    away = [True]

    async def check() -> None:
        if away[0]:
            raise OSError

    readiness.add("store", check)
    assert (await readiness.report()).status == "down"
    away[0] = False
    assert (await readiness.report()).status == "up"


async def test_draining_process_says_so(readiness: Readiness) -> None:
    """A process that ends is not sent new work, whatever its dependencies."""
    readiness.add("store", _up)
    readiness.drain()
    assert (await readiness.report()).status == "draining"


async def test_metrics_show_what_is_there(readiness: Readiness) -> None:
    """Whoever reads the metrics sees each dependency as readiness last saw it."""
    states = [_down, _up]

    async def comes_back() -> None:
        await states.pop(0)()

    readiness.add("comes-back", comes_back)
    shown = metrics.DEPENDENCY_UP.labels("comes-back")
    await readiness.report()
    assert shown._value.get() == 0
    await readiness.report()
    assert shown._value.get() == 1
