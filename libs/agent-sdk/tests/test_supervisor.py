"""Why a connection's tasks ended."""

from __future__ import annotations

import pytest

from artcafe_agent.errors import ConnectionLost, Disconnected, RevokedError, Unreachable
from artcafe_agent.states import ConnectionMachine, ReconnectPolicy
from artcafe_agent.supervisor import Supervisor, reason_in

LOST = ConnectionLost("subscribe", "broken")


def test_close_explains_what_it_caused() -> None:
    """Commands that were waiting fail because of the close, however deep they are nested."""
    revoked = RevokedError(4501)
    assert reason_in(BaseExceptionGroup("", [LOST, revoked])) is revoked
    assert reason_in(BaseExceptionGroup("", [revoked, LOST])) is revoked
    assert reason_in(BaseExceptionGroup("", [LOST, BaseExceptionGroup("", [LOST, revoked])])) is revoked
    assert reason_in(BaseExceptionGroup("", [LOST])) is LOST


def test_bug_beside_a_close_is_not_swallowed() -> None:
    """An exception that is none of ours stays what it is."""
    bug = ValueError("a bug")
    with pytest.raises(BaseExceptionGroup) as caught:
        reason_in(BaseExceptionGroup("", [Disconnected(1006), bug]))
    assert caught.group_contains(ValueError, match="a bug")


async def test_attempts_follow_the_machine() -> None:
    """One after the other until one of them is final."""
    ends = iter([Unreachable("x", "away"), Disconnected(1012), RevokedError(4501)])
    attempts = 0

    async def attempt() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 2:
            supervisor.opened()
        raise next(ends)

    policy = ReconnectPolicy(first_delay=0.001, startup_patience=None)
    supervisor = Supervisor(ConnectionMachine(policy), attempt)
    assert isinstance(await supervisor.run(), RevokedError)
    assert (attempts, supervisor.machine.connections) == (3, 1)


async def test_stopped_machine_ends_it_without_a_reason() -> None:
    """The end of a connection that its owner closed is no failure."""

    async def attempt() -> None:
        supervisor.opened()
        supervisor.machine.stop()
        raise Disconnected(1000)

    supervisor = Supervisor(ConnectionMachine(ReconnectPolicy()), attempt)
    assert await supervisor.run() is None
