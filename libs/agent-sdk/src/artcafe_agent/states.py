"""The life of a client's connection as a state machine without I/O.

    idle -> connecting -> online -> waiting -> connecting -> ...

and from everywhere to stopped (by its owner), from connecting and online to failed (for good).

Who drives it tells it what happened and when; it answers with what to do next. Waiting times are
exponential with full jitter (a uniform share of the current ceiling), so that many clients which lost
the same server do not come back in step.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from artcafe_agent.errors import ArtcafeError, ReplacedError

HIGHEST_EXPONENT = 32  # keeps 2**n a small number however long a server stays away


class ConnectionState(StrEnum):
    """Where a client's connection stands."""

    IDLE = "idle"
    CONNECTING = "connecting"
    ONLINE = "online"
    WAITING = "waiting"
    STOPPED = "stopped"
    FAILED = "failed"


ENDED = frozenset({ConnectionState.STOPPED, ConnectionState.FAILED})


@dataclass(frozen=True, slots=True)
class ReconnectPolicy:
    """How a client behaves when its connection breaks. All times are in seconds.

    Attributes:
        enabled: Reconnect at all after a break.
        first_delay: Ceiling of the first wait; it doubles with every failed attempt.
        longest_delay: Highest ceiling.
        stable_after: A connection that lasted this long starts the next back-off from the beginning.
        take_over: Come back after a newer connection of the same agent took over (4006). Two clients that
            both do this displace each other for ever, so the default is to stop.
        startup_patience: How long to go on trying for the first connection; 0 is one attempt, None for ever.
    """

    enabled: bool = True
    first_delay: float = 1.0
    longest_delay: float = 30.0
    stable_after: float = 30.0
    take_over: bool = False
    startup_patience: float | None = 0.0


class Backoff:
    """Waiting times: exponential, with full jitter."""

    def __init__(
        self, first_delay: float, longest_delay: float, chance: Callable[[], float] = random.random
    ) -> None:
        self.first_delay = first_delay
        self.longest_delay = longest_delay
        self.failures = 0
        self._chance = chance

    @property
    def ceiling(self) -> float:
        """The longest that the next wait can be."""
        return min(self.longest_delay, self.first_delay * 2.0 ** min(self.failures, HIGHEST_EXPONENT))

    def next(self, at_least: float = 0.0) -> float:
        """Return the next wait; what a server asked for (``at_least``) is spread too, never cut short."""
        delay = at_least + self._chance() * self.ceiling
        self.failures += 1
        return delay

    def reset(self) -> None:
        """Start from the first delay again."""
        self.failures = 0


@dataclass(frozen=True, slots=True)
class Retry:
    """Wait, then try again."""

    delay: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Give up for good."""

    error: ArtcafeError


@dataclass(frozen=True, slots=True)
class StateChange:
    """What ``on_state_change`` is told: ``error`` and ``retry_in`` (seconds) where there is one."""

    previous: ConnectionState
    current: ConnectionState
    error: ArtcafeError | None = None
    retry_in: float | None = None


class IllegalTransition(RuntimeError):
    """The driver reported something that cannot happen in this state: a bug of the driver."""


class ConnectionMachine:
    """Decide when to connect, when to wait and when to stop."""

    def __init__(
        self,
        policy: ReconnectPolicy,
        on_change: Callable[[StateChange], None] = lambda change: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.policy = policy
        self.state = ConnectionState.IDLE
        self.error: ArtcafeError | None = None
        self.connections = 0  # how often the connection was online
        self.backoff = Backoff(policy.first_delay, policy.longest_delay, chance)
        self._on_change = on_change
        self._started_at = 0.0
        self._opened_at: float | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing will happen any more."""
        return self.state in ENDED

    def start(self, now: float) -> None:
        """Begin the first attempt."""
        self._expect(ConnectionState.IDLE)
        self._started_at = now
        self._enter(ConnectionState.CONNECTING)

    def retry(self) -> None:
        """Begin another attempt after a wait."""
        self._expect(ConnectionState.WAITING)
        self._enter(ConnectionState.CONNECTING)

    def opened(self, now: float) -> None:
        """Note that the server has welcomed us."""
        self._expect(ConnectionState.CONNECTING)
        self._opened_at = now
        self.connections += 1
        self._enter(ConnectionState.ONLINE)

    def lost(self, error: ArtcafeError, now: float) -> Retry | Stop:
        """Note that an attempt failed or a connection ended, and decide what is next."""
        self._expect(ConnectionState.CONNECTING, ConnectionState.ONLINE)
        if self._opened_at is not None and now - self._opened_at >= self.policy.stable_after:
            self.backoff.reset()
        self._opened_at = None
        if not self._may_return(error):
            return self._fail(error)
        delay = self.backoff.next(at_least=error.retry_after)
        if self._out_of_patience(now + delay):
            return self._fail(error)
        self._enter(ConnectionState.WAITING, error, delay)
        return Retry(delay)

    def stop(self) -> None:
        """Note that the owner wants no connection any more; nothing happens if it has ended already."""
        if not self.ended:
            self._enter(ConnectionState.STOPPED)

    def _may_return(self, error: ArtcafeError) -> bool:
        if isinstance(error, ReplacedError):
            return self.policy.enabled and self.policy.take_over
        return self.policy.enabled and error.temporary

    def _out_of_patience(self, then: float) -> bool:
        patience = self.policy.startup_patience
        return self.connections == 0 and patience is not None and then - self._started_at >= patience

    def _fail(self, error: ArtcafeError) -> Stop:
        self.error = error
        self._enter(ConnectionState.FAILED, error)
        return Stop(error)

    def _expect(self, *states: ConnectionState) -> None:
        if self.state not in states:
            raise IllegalTransition(f"in state {self.state}, expected {' or '.join(states)}")

    def _enter(
        self, state: ConnectionState, error: ArtcafeError | None = None, retry_in: float | None = None
    ) -> None:
        change = StateChange(self.state, state, error, retry_in)
        self.state = state
        self._on_change(change)


class Heartbeats:
    """When to send a heartbeat, and when the silence of the server means that the connection is dead."""

    def __init__(self, interval: float, intervals_allowed: float = 2.0) -> None:
        self.interval = interval
        self.allowed = interval * intervals_allowed
        self.last_sent: float | None = None
        self.last_acknowledged: float | None = None
        self._unanswered_since: float | None = None

    def sent(self, now: float) -> None:
        """Note a heartbeat."""
        self.last_sent = now
        if self._unanswered_since is None:
            self._unanswered_since = now

    def acknowledged(self, now: float) -> None:
        """Note its acknowledgement; acknowledgements come in order, so one answers all before it."""
        self.last_acknowledged = now
        self._unanswered_since = None

    def silence(self, now: float) -> float:
        """Return for how long a heartbeat has gone unanswered."""
        return 0.0 if self._unanswered_since is None else now - self._unanswered_since

    def is_dead(self, now: float) -> bool:
        """Tell whether the connection must be given up."""
        return self.silence(now) >= self.allowed

    def is_due(self, now: float) -> bool:
        """Tell whether it is time for the next heartbeat; the first is due at once."""
        return self.last_sent is None or now - self.last_sent >= self.interval

    def next_event(self, now: float) -> float:
        """Return the seconds until the next heartbeat is due or the patience ends."""
        due = 0.0 if self.last_sent is None else self.last_sent + self.interval - now
        if self._unanswered_since is not None:
            due = min(due, self._unanswered_since + self.allowed - now)
        return max(0.0, due)
