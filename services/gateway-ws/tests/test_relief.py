"""How previews give way to agents."""

from __future__ import annotations

import pytest
from gateway_fakes import FakeClock

from artcafe_gateway.preview.relief import (
    CALM_SECONDS,
    OFF_AFTER_SECONDS,
    OFF_SECONDS,
    QUIET_AFTER_SECONDS,
    Ladder,
    Relief,
)

TICK = 0.1


@pytest.fixture
def ladder(clock: FakeClock) -> Ladder:
    """Give a ladder that nobody stands on."""
    return Ladder(clock)


def until(ladder: Ladder, clock: FakeClock, *, pressed: bool) -> tuple[Relief, object]:
    """Let time pass until a step is taken; return it and how long it took."""
    passed = 0.0
    while True:
        clock.move(TICK)
        passed += TICK
        if ladder.tick(pressed):
            return ladder.step, pytest.approx(passed, abs=1.5 * TICK)
        assert passed < 1000.0


def test_dashboards_give_way_before_the_tap_does(ladder: Ladder, clock: FakeClock) -> None:
    """First nothing is sent, and if that does not help the tap is closed."""
    assert until(ladder, clock, pressed=True) == (Relief.QUIET, QUIET_AFTER_SECONDS)
    assert until(ladder, clock, pressed=True) == (Relief.OFF, OFF_AFTER_SECONDS)


def test_what_was_given_up_comes_back_step_by_step(ladder: Ladder, clock: FakeClock) -> None:
    """A closed tap is opened without anything sent, and only a calm process sends again."""
    until(ladder, clock, pressed=True)
    until(ladder, clock, pressed=True)
    assert until(ladder, clock, pressed=False) == (Relief.QUIET, OFF_SECONDS)
    assert until(ladder, clock, pressed=False) == (Relief.NONE, CALM_SECONDS)


def test_moments_are_no_reason(ladder: Ladder, clock: FakeClock) -> None:
    """A process that is late now and then shows everything."""
    for _ in range(200):
        clock.move(TICK)
        assert not ladder.tick(True)
        clock.move(TICK)
        assert not ladder.tick(False)
    assert ladder.step is Relief.NONE


def test_a_tap_that_presses_again_is_closed_for_longer(ladder: Ladder, clock: FakeClock) -> None:
    """Opening it is tried ever less often, up to a bound, until it did go well once."""
    until(ladder, clock, pressed=True)
    closed = []
    for _ in range(7):
        assert until(ladder, clock, pressed=True)[0] is Relief.OFF
        closed.append(until(ladder, clock, pressed=True)[1])
        assert ladder.step is Relief.QUIET
    assert closed == [2, 4, 8, 16, 32, 60, 60]
    assert until(ladder, clock, pressed=False)[0] is Relief.NONE
    until(ladder, clock, pressed=True)
    until(ladder, clock, pressed=True)
    assert until(ladder, clock, pressed=True)[1] == OFF_SECONDS
