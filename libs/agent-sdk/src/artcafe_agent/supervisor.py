"""Keep one connection open: the loop that drives a `ConnectionMachine`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from artcafe_agent.errors import ArtcafeError, Disconnected
from artcafe_agent.states import ConnectionMachine, Stop


class Supervisor:
    """Run attempts, one after the other, until the machine says stop.

    ``attempt`` opens a connection, calls `opened` when it is usable, and ends only by raising why it ended.
    """

    def __init__(
        self,
        machine: ConnectionMachine,
        attempt: Callable[[], Awaitable[object]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.machine = machine
        self._attempt = attempt
        self._clock = clock

    def opened(self) -> None:
        """Note that the connection of the running attempt is usable."""
        if not self.machine.ended:
            self.machine.opened(self._clock())

    async def run(self) -> ArtcafeError | None:
        """Return why it ended for good, or None when the owner stopped the machine."""
        machine = self.machine
        machine.start(self._clock())
        while True:
            error = await self._one_attempt()
            if machine.ended:
                return None
            decision = machine.lost(error, self._clock())
            if isinstance(decision, Stop):
                return decision.error
            await asyncio.sleep(decision.delay)
            machine.retry()

    async def _one_attempt(self) -> ArtcafeError:
        try:
            await self._attempt()
        except ArtcafeError as error:
            return error
        except BaseExceptionGroup as group:
            return reason_in(group)
        return Disconnected(1000)


def reason_in(group: BaseExceptionGroup[BaseException]) -> ArtcafeError:
    """Return the reason why a connection's tasks ended; re-raise the group if one of them has a bug.

    The close of the connection explains the failures that it caused in the other tasks.
    """
    ours, others = group.split(ArtcafeError)
    if ours is None or others is not None:
        raise group
    reasons = _leaves(ours)
    return next((each for each in reasons if isinstance(each, Disconnected)), reasons[0])


def _leaves(group: BaseExceptionGroup[ArtcafeError]) -> list[ArtcafeError]:
    found: list[ArtcafeError] = []
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            found.extend(_leaves(each))
        else:
            found.append(each)
    return found
