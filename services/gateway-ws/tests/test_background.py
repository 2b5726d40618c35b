"""Work that goes on beside its caller."""

from __future__ import annotations

import asyncio

import pytest
from gateway_fakes import FakeClock, settle

from artcafe_common.errors import ServiceError, unavailable
from artcafe_gateway.background import Background
from artcafe_gateway.latest import Latest
from artcafe_gateway.recent import RECENT_SECONDS, Recent


async def test_shielded_work_outlives_its_caller() -> None:
    """The caller is cancelled at once, the work is done all the same and waited for at the end."""
    background = Background()
    gate, done = asyncio.Event(), []

    async def work() -> None:
        await gate.wait()
        done.append(True)

    caller = asyncio.create_task(background.shielded(work()))
    await settle()
    caller.cancel()
    await settle()
    assert caller.cancelled() and not done
    gate.set()
    await background.wait()
    assert done and len(background) == 0


async def test_an_error_of_shielded_work_reaches_its_caller(caplog: pytest.LogCaptureFixture) -> None:
    """It is the caller's to handle, and not logged."""
    background = Background()

    async def fail() -> None:
        raise unavailable("store")

    with pytest.raises(ServiceError):
        await background.shielded(fail())
    assert caplog.text == ""


async def test_an_error_that_nobody_awaits_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in background work does not pass in silence."""
    background = Background()

    async def fail() -> None:
        raise RuntimeError("bug")

    background.spawn(fail())
    await background.wait()
    await settle()
    assert "background_work_failed" in caplog.text


async def test_one_piece_of_work_at_a_time_for_each_key() -> None:
    """Asked for ten times while it runs, it runs just once more; other keys do not wait."""
    background = Background()
    latest = Latest(background)
    gate, runs = asyncio.Event(), {"a": 0, "b": 0}

    async def work(key: str) -> None:
        runs[key] += 1
        await gate.wait()

    for _ in range(10):
        latest.run("a", lambda: work("a"))
        await settle(2)
    latest.run("b", lambda: work("b"))
    await settle()
    assert runs == {"a": 1, "b": 1}
    gate.set()
    await background.wait()
    assert runs == {"a": 2, "b": 1}
    latest.run("a", lambda: work("a"))
    await background.wait()
    assert runs["a"] == 3


async def test_work_that_fails_may_be_asked_for_again() -> None:
    """A failure does not leave its key taken."""
    background = Background()
    latest = Latest(background)
    runs = 0

    async def fail() -> None:
        nonlocal runs
        runs += 1
        raise unavailable("store")

    for _ in range(2):
        latest.run("a", fail)
        await background.wait()
    assert runs == 2


def test_recent_events_are_found_by_their_time(clock: FakeClock) -> None:
    """Events since a moment come newest first, and old ones are forgotten."""
    recent: Recent[str] = Recent(clock)
    recent.add("one")
    clock.move(1)
    moment = clock.monotonic()
    recent.add("two")
    clock.move(1)
    recent.add("three")
    assert list(recent.since(moment)) == ["three", "two"]
    clock.move(RECENT_SECONDS)
    recent.add("four")
    assert list(recent.since(0.0)) == ["four", "three"]
