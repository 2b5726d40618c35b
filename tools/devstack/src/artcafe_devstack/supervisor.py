"""Keep processes running: start them in order, restart what crashes, stop them in reverse order.

One thread, the owner, starts processes: on Linux a child is told to stop when the *thread* that started
it ends. It calls `start_all`, then `tick` again and again, then `stop_all`. The other methods may be
called from any thread; they change what is wanted, and the owner follows.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from artcafe_devstack.process import ManagedProcess, ProcessSpec, StackError

_BACKOFF_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)
_STABLE_SECONDS = 20.0
_PROBE_PAUSE_SECONDS = 0.1

Report = Callable[[str], None]


@dataclass(slots=True)
class _Member:
    process: ManagedProcess
    wanted: bool = True
    ready: bool = False
    crashes: int = 0
    started_at: float = 0.0
    start_at: float | None = None
    probed_at: float = 0.0


class Supervisor:
    """Processes in groups: a group is started together, and stopped before the groups that came before it."""

    def __init__(
        self, groups: Iterable[Sequence[ProcessSpec]], *, report: Report, on_pids: Callable[[], None]
    ) -> None:
        self._groups = [[_Member(ManagedProcess(spec)) for spec in group] for group in groups]
        self._members = {m.process.spec.name: m for group in self._groups for m in group}
        self._report = report
        self._on_pids = on_pids
        self._lock = threading.RLock()

    @property
    def names(self) -> list[str]:
        """The names of all processes, in the order of their start."""
        return list(self._members)

    def pids(self) -> dict[str, int]:
        """Return the ids of the processes that run."""
        found = {name: member.process.pid for name, member in self._members.items()}
        return {name: pid for name, pid in found.items() if pid is not None}

    # --- For the owner ---

    def start_all(self, barriers: Sequence[int], stop: threading.Event) -> None:
        """Start group after group; after each group whose number is in `barriers`, wait until all are ready.

        Raises:
            StackError: a process ended or did not get ready.
        """
        waiting: list[_Member] = []
        for number, group in enumerate(self._groups):
            for member in group:
                self._start(member)
                waiting.append(member)
            self._on_pids()
            while number in barriers and waiting and not stop.is_set():
                waiting = [member for member in waiting if not self._became_ready(member)]
                time.sleep(0.02)

    def tick(self) -> None:
        """Look after every process once: note crashes, start again what is due, see what got ready."""
        changed = False
        for name, member in self._members.items():
            with self._lock:
                changed |= self._follow(name, member)
        # Before it is told that a process is ready again: whoever hears that looks for its new id.
        if changed:
            self._on_pids()
        for name, member in self._members.items():
            with self._lock:
                waited_for = member.wanted and member.start_at is None and not member.ready
            if waited_for:
                self._probe(name, member)

    def stop_all(self) -> list[str]:
        """Stop all, the last group first; return the names of those that had to be ended by force."""
        forced = []
        with self._lock:
            for member in self._members.values():
                member.wanted = False
        for group in reversed(self._groups):
            for member in group:
                member.process.ask_to_stop()
            for member in group:
                if not member.process.wait_stopped(member.process.spec.stop_seconds):
                    forced.append(member.process.spec.name)
        return forced

    # --- For anyone ---

    def kill(self, name: str, *, restart: bool = True) -> None:
        """Crash a process (SIGKILL); it is started again unless told otherwise."""
        member = self._member(name)
        with self._lock:
            member.wanted = member.wanted and restart
            member.ready = False
            member.process.kill()

    def stop(self, name: str) -> bool:
        """Stop a process cleanly and leave it stopped; tell whether it ended by itself."""
        member = self._member(name)
        with self._lock:
            member.wanted = member.ready = False
        return member.process.stop()

    def start(self, name: str) -> None:
        """Start a process that was stopped; `wait_ready` waits until it serves."""
        member = self._member(name)
        with self._lock:
            if not member.wanted:
                member.wanted, member.ready, member.start_at = True, False, time.monotonic()

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process and what it has started."""
        self._member(name).process.send(number)

    def is_ready(self, name: str) -> bool:
        """Tell whether a process runs and was ready since its last start."""
        member = self._member(name)
        return member.ready and member.process.pid is not None

    def wait_ready(self, name: str, seconds: float = 60.0) -> None:
        """Wait until a process is ready.

        Raises:
            StackError: it was not in time, with the end of its log.
        """
        deadline = time.monotonic() + seconds
        while not self.is_ready(name):
            if time.monotonic() > deadline:
                words = self._member(name).process.last_words()
                raise StackError(f"{name} was not ready after {seconds:g} s{words}")
            time.sleep(0.02)

    def _member(self, name: str) -> _Member:
        try:
            return self._members[name]
        except KeyError:
            raise StackError(f"there is no process {name}; there are {', '.join(self._members)}") from None

    def _start(self, member: _Member) -> None:
        member.process.start()
        member.ready, member.start_at, member.started_at = False, None, time.monotonic()

    def _follow(self, name: str, member: _Member) -> bool:
        """Make of one process what is wanted of it; tell whether another process runs now than before."""
        now = time.monotonic()
        if not member.wanted:
            return False
        if member.start_at is None:
            if member.process.pid is not None:
                return False
            self._plan_restart(name, member, now)
            return True
        if now < member.start_at:
            return False
        self._start_again(name, member, now)
        return True

    def _start_again(self, name: str, member: _Member, now: float) -> None:
        try:
            self._start(member)
        except StackError as error:
            self._report(str(error))
            member.start_at = now + _BACKOFF_SECONDS[-1]

    def _became_ready(self, member: _Member) -> bool:
        """Tell whether a process that is being started for the first time is ready."""
        member.ready = member.process.spec.ready()
        if member.ready:
            return True
        spec, status = member.process.spec, member.process.exit_status()
        words = member.process.last_words
        if status is not None:
            raise StackError(f"{spec.name} ended with status {status} while starting{words()}")
        if time.monotonic() > member.started_at + spec.start_seconds:
            raise StackError(f"{spec.name} was not ready after {spec.start_seconds:g} s{words()}")
        return False

    def _plan_restart(self, name: str, member: _Member, now: float) -> None:
        """Note a crash; say so at the first of several in a row."""
        status = member.process.exit_status()
        # What the crashed process has left of its group would hold its ports.
        member.process.kill()
        if now - member.started_at > _STABLE_SECONDS:
            member.crashes = 0
        pause = _BACKOFF_SECONDS[min(member.crashes, len(_BACKOFF_SECONDS) - 1)]
        member.crashes += 1
        member.ready, member.start_at = False, now + pause
        if member.crashes == 1:
            self._report(f"{name} {_how_it_ended(status)}: starting it again")
        elif member.crashes == len(_BACKOFF_SECONDS):
            self._report(
                f"{name} does not stay up; it is tried every few seconds{member.process.last_words()}"
            )

    def _probe(self, name: str, member: _Member) -> None:
        now = time.monotonic()
        if now - member.probed_at < _PROBE_PAUSE_SECONDS:
            return
        ready = member.process.spec.ready()
        member.probed_at = time.monotonic()
        with self._lock:
            if ready and member.wanted and member.process.pid is not None:
                # Whoever waits until it is ready finds that it was told.
                self._report(f"{name} is ready again")
                member.ready = True


def _how_it_ended(status: int | None) -> str:
    if status is not None and status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
