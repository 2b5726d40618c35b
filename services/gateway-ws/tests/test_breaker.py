"""The circuit breaker of a preview."""

from __future__ import annotations

import pytest
from gateway_fakes import FakeClock

from artcafe_gateway.preview.breaker import (
    OPEN_AFTER_SECONDS,
    PAUSE_MAX_SECONDS,
    PAUSE_SECONDS,
    PROBE_SECONDS,
    SAMPLE_AFTER_SECONDS,
    Breaker,
    State,
)

TICK = 0.1


@pytest.fixture
def breaker(clock: FakeClock) -> Breaker:
    """Give a breaker that is closed."""
    return Breaker(clock)


def run(breaker: Breaker, clock: FakeClock, seconds: float, *, stuck: bool) -> list[State]:
    """Let time pass and return each state that it changed to."""
    states = []
    for _ in range(round(seconds / TICK)):
        clock.move(TICK)
        if breaker.tick(stuck):
            states.append(breaker.state)
    return states


def until(breaker: Breaker, clock: FakeClock, state: State, *, stuck: bool) -> float:
    """Let time pass until a state is reached and return how much that was."""
    passed = 0.0
    while breaker.state is not state:
        clock.move(TICK)
        passed += TICK
        breaker.tick(stuck)
        assert passed < 1000.0
    return passed


def test_a_socket_that_drains_is_shown_everything(breaker: Breaker, clock: FakeClock) -> None:
    """Nothing changes while nothing is wrong, nor by a moment in which the socket is full."""
    assert run(breaker, clock, 60, stuck=False) == []
    assert run(breaker, clock, SAMPLE_AFTER_SECONDS - 2 * TICK, stuck=True) == []
    assert (breaker.state, breaker.one_in) == (State.CLOSED, 1)


def test_a_stuck_socket_is_sampled_then_cut_off(breaker: Breaker, clock: FakeClock) -> None:
    """First a tenth is sent, and after a while nothing."""
    assert until(breaker, clock, State.SAMPLED, stuck=True) == pytest.approx(SAMPLE_AFTER_SECONDS, abs=TICK)
    assert breaker.one_in == 10
    rest = OPEN_AFTER_SECONDS - SAMPLE_AFTER_SECONDS
    assert until(breaker, clock, State.OPEN, stuck=True) == pytest.approx(rest, abs=2 * TICK)
    assert breaker.one_in == 0


def test_a_sampled_preview_closes_when_its_socket_drains(breaker: Breaker, clock: FakeClock) -> None:
    """A dashboard that caught up sees all again, after at least as long as it was stuck."""
    until(breaker, clock, State.SAMPLED, stuck=True)
    assert until(breaker, clock, State.CLOSED, stuck=False) >= SAMPLE_AFTER_SECONDS


def test_a_socket_that_is_stuck_every_other_moment_is_sampled(breaker: Breaker, clock: FakeClock) -> None:
    """A dashboard that is merely slow is found, too."""
    for _ in range(40):
        run(breaker, clock, TICK, stuck=True)
        run(breaker, clock, TICK, stuck=False)
    assert breaker.state is State.SAMPLED


def test_an_open_breaker_probes_only_once_its_socket_drains(breaker: Breaker, clock: FakeClock) -> None:
    """However long it takes: without a reader there is nothing to find out."""
    until(breaker, clock, State.OPEN, stuck=True)
    assert run(breaker, clock, 300, stuck=True) == []
    assert run(breaker, clock, TICK, stuck=False) == [State.HALF_OPEN]
    assert breaker.one_in == 10


def test_an_open_breaker_pauses_before_it_probes(breaker: Breaker, clock: FakeClock) -> None:
    """A socket that drains at once is given time."""
    until(breaker, clock, State.OPEN, stuck=True)
    paused = until(breaker, clock, State.HALF_OPEN, stuck=False)
    assert paused == pytest.approx(PAUSE_SECONDS, abs=TICK)


def test_a_probe_that_holds_closes_the_breaker(breaker: Breaker, clock: FakeClock) -> None:
    """All is as it was at the beginning, the next pause too."""
    until(breaker, clock, State.OPEN, stuck=True)
    until(breaker, clock, State.HALF_OPEN, stuck=False)
    held = until(breaker, clock, State.CLOSED, stuck=False)
    assert held == pytest.approx(PROBE_SECONDS, abs=TICK)
    assert until(breaker, clock, State.SAMPLED, stuck=True) == pytest.approx(SAMPLE_AFTER_SECONDS, abs=TICK)


def test_probes_that_fail_come_ever_less_often(breaker: Breaker, clock: FakeClock) -> None:
    """Each one doubles the pause, up to a bound; one that holds begins anew."""
    until(breaker, clock, State.OPEN, stuck=True)
    pauses = []
    for _ in range(6):
        pauses.append(until(breaker, clock, State.HALF_OPEN, stuck=False))
        assert run(breaker, clock, TICK, stuck=True) == [State.OPEN]
    assert pauses == pytest.approx([5, 10, 20, 40, 60, 60], abs=2 * TICK)
    assert PAUSE_MAX_SECONDS == 60
    until(breaker, clock, State.HALF_OPEN, stuck=False)
    until(breaker, clock, State.CLOSED, stuck=False)
    until(breaker, clock, State.OPEN, stuck=True)
    assert until(breaker, clock, State.HALF_OPEN, stuck=False) == pytest.approx(PAUSE_SECONDS, abs=TICK)


def test_a_process_that_stood_still_blames_no_socket(breaker: Breaker, clock: FakeClock) -> None:
    """A minute without a tick is not a minute in which the socket was stuck."""
    clock.move(60)
    breaker.tick(True)
    assert breaker.state is not State.OPEN
