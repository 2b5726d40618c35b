"""How much previews of one tenant give way to agents while this process has too much to do.

First what is sent to the dashboards goes, then the tap itself. Pure: told regularly whether the process is
pressed, it says what holds now.
"""

from __future__ import annotations

from enum import IntEnum

from artcafe_common.clock import Clock

# Seconds pressed until a step is taken, each for itself; seconds without until it is taken back.
QUIET_AFTER_SECONDS = 0.5
OFF_AFTER_SECONDS = 1.0
CALM_SECONDS = 2.0
# A tap that was closed stays closed at least so long, and twice as long each time it did not help.
OFF_SECONDS = 2.0
OFF_MAX_SECONDS = 60.0


class Relief(IntEnum):
    """Nothing, nothing is sent to dashboards, or the tap is closed as well."""

    NONE = 0
    QUIET = 1
    OFF = 2


class Ladder:
    """The steps of one tap; `tick` it regularly."""

    __slots__ = ("_at", "_calm", "_clock", "_off_seconds", "_off_until", "_pressed", "step")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = clock.monotonic()
        self._pressed = 0.0
        self._calm = 0.0
        self._off_seconds = OFF_SECONDS
        self._off_until = 0.0
        self.step = Relief.NONE

    def tick(self, pressed: bool) -> bool:
        """Note whether the process is pressed at this moment; True where the step has changed."""
        now = self._clock.monotonic()
        passed, self._at = now - self._at, now
        if self.step is Relief.OFF:
            # The tap takes nothing now: what presses is something else, and only a trial tells.
            return now >= self._off_until and self._go(Relief.QUIET)
        self._pressed = self._pressed + passed if pressed else max(0.0, self._pressed - passed)
        self._calm = 0.0 if pressed else self._calm + passed
        if self.step is Relief.NONE:
            return self._pressed >= QUIET_AFTER_SECONDS and self._go(Relief.QUIET)
        if self._pressed >= OFF_AFTER_SECONDS:
            self._off_until = now + self._off_seconds
            self._off_seconds = min(OFF_MAX_SECONDS, self._off_seconds * 2)
            return self._go(Relief.OFF)
        if self._calm >= CALM_SECONDS:
            self._off_seconds = OFF_SECONDS
            return self._go(Relief.NONE)
        return False

    def _go(self, step: Relief) -> bool:
        self.step = step
        self._pressed = self._calm = 0.0
        return True
