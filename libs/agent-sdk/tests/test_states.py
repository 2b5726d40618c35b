"""The state machine, the back-off and the heartbeats, without I/O and without a clock."""

from __future__ import annotations

import pytest

from artcafe_agent.errors import ApiError, Disconnected, Unreachable, disconnected
from artcafe_agent.states import (
    Backoff,
    ConnectionMachine,
    ConnectionState,
    Heartbeats,
    IllegalTransition,
    ReconnectPolicy,
    Retry,
    StateChange,
    Stop,
)

BROKEN = Disconnected(1006)


def machine(policy: ReconnectPolicy | None = None, chance: float = 1.0) -> ConnectionMachine:
    """Return a started machine whose dice always fall the same way."""
    started = ConnectionMachine(policy or ReconnectPolicy(), chance=lambda: chance)
    started.start(0.0)
    return started


def online(policy: ReconnectPolicy | None = None, chance: float = 1.0) -> ConnectionMachine:
    """Return a machine that is online since second 0."""
    opened = machine(policy, chance)
    opened.opened(0.0)
    return opened


def test_backoff_doubles_up_to_its_ceiling() -> None:
    """The ceiling of the waits is exponential and bounded."""
    backoff = Backoff(1.0, 30.0, chance=lambda: 1.0)
    assert [backoff.next() for _ in range(7)] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    backoff.reset()
    assert backoff.next() == 1.0


def test_backoff_survives_any_number_of_failures() -> None:
    """A server that stays away for a year overflows nothing."""
    backoff = Backoff(1.0, 30.0, chance=lambda: 1.0)
    backoff.failures = 10**6
    assert backoff.next() == 30.0


def test_jitter_is_full() -> None:
    """A wait is any share of the ceiling, down to nothing."""
    assert Backoff(8.0, 30.0, chance=lambda: 0.0).next() == 0.0
    assert Backoff(8.0, 30.0, chance=lambda: 0.25).next() == 2.0
    waits = {Backoff(8.0, 30.0).next() for _ in range(50)}
    assert len(waits) > 40
    assert all(0 <= wait <= 8 for wait in waits)


def test_wait_asked_for_is_spread_and_never_cut() -> None:
    """What a server asks for is the least, with the jitter on top."""
    assert Backoff(1.0, 30.0, chance=lambda: 0.0).next(at_least=10.0) == 10.0
    assert Backoff(1.0, 30.0, chance=lambda: 1.0).next(at_least=10.0) == 11.0


@pytest.mark.parametrize(
    ("code", "comes_back"),
    [
        (1000, True),
        (1001, True),
        (1006, True),
        (1009, True),
        (1011, True),
        (1012, True),
        (4000, True),
        (4001, True),
        (4002, True),
        (4004, True),
        (4005, True),
        (4006, False),
        (4007, True),
        (4499, True),
        (4500, False),
        (4501, False),
        (4502, False),
        (4503, False),
        (4504, False),
        (4999, False),
    ],
)
def test_close_code_decides(code: int, comes_back: bool) -> None:
    """The range of a close code says whether to come back; a replaced client does not fight."""
    decision = online().lost(disconnected(code, "why"), 1.0)
    assert isinstance(decision, Retry if comes_back else Stop)
    assert disconnected(code, "why").code == code


def test_replaced_client_comes_back_only_where_it_was_told_to() -> None:
    """`take_over` turns a replacement into a break like any other, if reconnecting is on at all."""
    assert isinstance(online(ReconnectPolicy(take_over=True)).lost(disconnected(4006), 1.0), Retry)
    never = ReconnectPolicy(take_over=True, enabled=False)
    assert isinstance(online(never).lost(disconnected(4006), 1.0), Stop)


def test_break_of_a_short_connection_goes_on_backing_off() -> None:
    """A server that accepts and drops at once is not hammered."""
    looping = online()
    waits = []
    for _ in range(5):
        decision = looping.lost(BROKEN, 1.0)
        assert isinstance(decision, Retry)
        waits.append(decision.delay)
        looping.retry()
        looping.opened(0.5)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_break_of_a_stable_connection_starts_from_the_beginning() -> None:
    """After half a minute online the past is forgotten."""
    stable = online()
    for now in (1.0, 2.0, 3.0):
        stable.lost(BROKEN, now)
        stable.retry()
        stable.opened(now)
    assert stable.lost(BROKEN, 3.0 + 29.9) == Retry(8.0)
    stable.retry()
    stable.opened(100.0)
    assert stable.lost(BROKEN, 130.0) == Retry(1.0)


def test_failed_attempts_between_do_not_count_as_stable() -> None:
    """The time that a server was away is no time online."""
    away = online()
    away.lost(BROKEN, 1.0)
    away.retry()
    assert away.lost(Unreachable("x", "away"), 500.0) == Retry(2.0)


def test_without_reconnection_the_first_break_is_the_last() -> None:
    """Every error stops a client that may not reconnect."""
    stopped = online(ReconnectPolicy(enabled=False))
    assert stopped.lost(BROKEN, 1.0) == Stop(BROKEN)
    assert stopped.state is ConnectionState.FAILED
    assert stopped.error is BROKEN


def test_patience_is_for_the_first_connection_only() -> None:
    """One attempt by default, a bounded time, or for ever; once online it is always for ever."""
    away = Unreachable("x", "away")
    assert machine().lost(away, 0.0) == Stop(away)
    patient = machine(ReconnectPolicy(startup_patience=5.0))
    assert patient.lost(away, 1.0) == Retry(1.0)
    patient.retry()
    assert patient.lost(away, 4.0) == Stop(away)
    endless = machine(ReconnectPolicy(startup_patience=None))
    assert endless.lost(away, 1e9) == Retry(1.0)
    assert isinstance(online().lost(away, 1e9), Retry)


@pytest.mark.parametrize(
    ("status", "comes_back"), [(400, False), (401, False), (404, False), (429, True), (503, True)]
)
def test_status_of_a_refused_request_decides(status: int, comes_back: bool) -> None:
    """What a server may answer otherwise later is asked again, with the time it wants."""
    error = ApiError(status, "code", "", retry_after=7.0)
    decision = machine(ReconnectPolicy(startup_patience=None)).lost(error, 0.0)
    assert decision == (Retry(8.0) if comes_back else Stop(error))


def test_stopping_ends_it_from_every_state() -> None:
    """The owner may stop at any time, and more than once; what has failed stays failed."""
    waiting = online()
    waiting.lost(BROKEN, 1.0)
    for each in (ConnectionMachine(ReconnectPolicy()), machine(), online(), waiting):
        each.stop()
        assert each.state is ConnectionState.STOPPED
        each.stop()
    failed = machine()
    failed.lost(BROKEN, 0.0)
    failed.stop()
    assert failed.state is ConnectionState.FAILED


def test_impossible_reports_are_bugs_of_the_driver() -> None:
    """A machine that is told nonsense says so."""
    fresh = ConnectionMachine(ReconnectPolicy())
    with pytest.raises(IllegalTransition, match="idle"):
        fresh.opened(0.0)
    with pytest.raises(IllegalTransition):
        fresh.lost(BROKEN, 0.0)
    with pytest.raises(IllegalTransition):
        online().opened(0.0)
    with pytest.raises(IllegalTransition):
        online().retry()
    with pytest.raises(IllegalTransition):
        online().start(0.0)


def test_changes_are_reported_with_their_reason() -> None:
    """A listener sees every transition, with the error and the wait where there is one."""
    changes: list[StateChange] = []
    told = ConnectionMachine(ReconnectPolicy(), changes.append, chance=lambda: 0.5)
    told.start(0.0)
    told.opened(0.0)
    told.lost(BROKEN, 1.0)
    told.retry()
    states = ConnectionState
    assert changes == [
        StateChange(states.IDLE, states.CONNECTING),
        StateChange(states.CONNECTING, states.ONLINE),
        StateChange(states.ONLINE, states.WAITING, BROKEN, 0.5),
        StateChange(states.WAITING, states.CONNECTING),
    ]
    assert told.connections == 1


def test_heartbeats_are_due_at_once_and_then_by_interval() -> None:
    """The first tells the server at once that this client sends them."""
    beats = Heartbeats(30.0)
    assert beats.is_due(0.0)
    assert beats.next_event(0.0) == 0.0
    beats.sent(0.0)
    beats.acknowledged(0.1)
    assert not beats.is_due(29.9)
    assert beats.next_event(10.0) == 20.0
    assert beats.is_due(30.0)


def test_two_intervals_without_acknowledgement_are_death() -> None:
    """The time counts from the first heartbeat that was not answered."""
    beats = Heartbeats(30.0)
    beats.sent(0.0)
    beats.acknowledged(0.1)
    beats.sent(30.0)
    beats.sent(60.0)
    assert beats.silence(60.0) == 30.0
    assert beats.next_event(85.0) == 5.0
    assert not beats.is_dead(89.9)
    assert beats.is_dead(90.0)
    beats.acknowledged(90.0)
    assert not beats.is_dead(90.0)
    assert beats.silence(200.0) == 0.0


def test_idle_client_is_not_dead() -> None:
    """Silence counts only where something waits for an answer."""
    beats = Heartbeats(30.0)
    assert not beats.is_dead(1e9)
    beats.sent(0.0)
    beats.acknowledged(1.0)
    assert not beats.is_dead(1e9)
