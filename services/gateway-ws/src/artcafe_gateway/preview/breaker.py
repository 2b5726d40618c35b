"""The circuit breaker of one preview: what a dashboard gets whose socket does not drain.

    closed ──stuck──▶ sampled ──still stuck──▶ open ──drained, after a pause──▶ half_open ──▶ closed
       ▲                 │                       ▲                                  │
       └────drained──────┘                       └──────────────stuck───────────────┘

Pure: it is told once in a while whether the socket is stuck, and says what changed.
"""

from __future__ import annotations

from enum import StrEnum

from artcafe_common.clock import Clock

# Seconds stuck until a preview is sampled, and until it is opened. Time in which the socket drains counts
# half against them: a socket that is stuck for a third of the time never closes the gap.
SAMPLE_AFTER_SECONDS = 1.0
OPEN_AFTER_SECONDS = 5.0
DRAINING_COUNTS = 0.5
# How long an open breaker pauses before it probes, doubled by each probe that fails.
PAUSE_SECONDS = 5.0
PAUSE_MAX_SECONDS = 60.0
PROBE_SECONDS = 3.0
SAMPLED_ONE_IN = 10
# A process that stood still says nothing about the socket in that time.
STEP_MAX_SECONDS = 1.0


class State(StrEnum):
    """What a preview is shown: all it asked for, a tenth, nothing, a tenth to see whether it reads."""

    CLOSED = "closed"
    SAMPLED = "sampled"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """One dashboard's breaker; `tick` it regularly."""

    __slots__ = ("_at", "_clock", "_pause", "_pressure", "_since", "state")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = self._since = clock.monotonic()
        # Seconds stuck, less those in which it drained.
        self._pressure = 0.0
        self._pause = PAUSE_SECONDS
        self.state = State.CLOSED

    @property
    def one_in(self) -> int:
        """Of how many messages one may be sent; 0 for none."""
        if self.state is State.CLOSED:
            return 1
        return 0 if self.state is State.OPEN else SAMPLED_ONE_IN

    def tick(self, stuck: bool) -> bool:
        """Note whether the socket is stuck at this moment; True where the state has changed."""
        now = self._clock.monotonic()
        step, self._at = min(now - self._at, STEP_MAX_SECONDS), now
        change = step if stuck else -step * DRAINING_COUNTS
        self._pressure = min(OPEN_AFTER_SECONDS, max(0.0, self._pressure + change))
        state = self._next(stuck, now)
        if state is self.state:
            return False
        self.state, self._since = state, now
        return True

    def _next(self, stuck: bool, now: float) -> State:
        held = now - self._since
        match self.state:
            case State.CLOSED:
                return State.SAMPLED if self._pressure >= SAMPLE_AFTER_SECONDS else State.CLOSED
            case State.SAMPLED:
                if self._pressure >= OPEN_AFTER_SECONDS:
                    return State.OPEN
                return State.CLOSED if self._pressure == 0.0 else State.SAMPLED
            case State.OPEN:
                return State.HALF_OPEN if held >= self._pause and not stuck else State.OPEN
            case State.HALF_OPEN:
                if stuck:
                    self._pause = min(PAUSE_MAX_SECONDS, self._pause * 2)
                    return State.OPEN
                if held < PROBE_SECONDS:
                    return State.HALF_OPEN
                self._pause, self._pressure = PAUSE_SECONDS, 0.0
                return State.CLOSED
