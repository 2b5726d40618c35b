"""One child process: start it with a log file, watch it, signal it, stop it in bounded time.

Every child leads a session of its own, so that a Ctrl-C in the terminal reaches the launcher alone, which
then stops its children in order, and so that a signal to the child's group reaches what the child itself
has started.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_PDEATHSIG = 1
# What the servers write is nobody else's on this machine: messages, rows of people, logs.
_UMASK = 0o077
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class StackError(Exception):
    """A reason why the stack cannot run, in one line meant for a person."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run under a name, and how to tell that it serves."""

    name: str
    argv: Sequence[str]
    log: Path
    ready: Callable[[], bool]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0
    start_seconds: float = 60.0


class ManagedProcess:
    """A process started from a `ProcessSpec`; it can be started again after it has ended."""

    def __init__(self, spec: ProcessSpec) -> None:
        self.spec = spec
        self._popen: subprocess.Popen[bytes] | None = None
        self._gone = True
        # Before that the log is of earlier starts.
        self._log_from = 0

    @property
    def pid(self) -> int | None:
        """The id of the running process, None when it does not run."""
        return self._popen.pid if self._popen is not None and self._popen.poll() is None else None

    def start(self) -> None:
        """Start the process; on Linux it is told to stop when the calling thread ends.

        Raises:
            StackError: the program cannot be executed.
        """
        self.spec.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.spec.log, "ab", opener=_for_its_owner) as log:
            self._log_from = log.tell()
            try:
                self._popen = subprocess.Popen(
                    list(self.spec.argv),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.spec.cwd,
                    env={**inherited_environment(), **self.spec.env},
                    start_new_session=True,
                    umask=_UMASK,
                    preexec_fn=_die_with_parent(os.getpid()),
                )
                self._gone = False
            except OSError as error:
                raise StackError(
                    f"{self.spec.name}: cannot run {self.spec.argv[0]}: {error.strerror}"
                ) from error

    def exit_status(self) -> int | None:
        """Return the exit status (negative: a signal), None while it runs or was never started."""
        return self._popen.poll() if self._popen is not None else None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process and to everything it has started."""
        if self._popen is not None and not self._gone:
            # The group outlives its leader while a worker is left in it, so it is signalled in any case.
            try:
                os.killpg(self._popen.pid, number)
            except (ProcessLookupError, PermissionError):
                return

    def kill(self) -> None:
        """End the process at once, as a crash would, and wait until it is gone."""
        self.send(signal.SIGKILL)
        if self._popen is not None:
            self._popen.wait()
            # From here on the number may be another process's.
            self._gone = True

    def ask_to_stop(self) -> None:
        """Ask for a clean end without waiting for it."""
        if self.pid is not None:
            self.send(self.spec.stop_signal)
            # A frozen process could not act on the request.
            self.send(signal.SIGCONT)

    def stop(self) -> bool:
        """Ask for a clean end, wait for it, then end what is left; tell whether it ended by itself."""
        self.ask_to_stop()
        return self.wait_stopped(self.spec.stop_seconds)

    def wait_stopped(self, seconds: float) -> bool:
        """Wait for the end of a process that was asked to stop; after the deadline end it by force."""
        clean = True
        if self._popen is not None:
            try:
                self._popen.wait(seconds)
            except subprocess.TimeoutExpired:
                clean = False
            self.kill()
        return clean

    def wait_ready(self) -> None:
        """Poll the readiness probe until it answers.

        Raises:
            StackError: the process ended, or did not get ready in time; with the end of its log.
        """
        deadline = time.monotonic() + self.spec.start_seconds
        while not self.spec.ready():
            status = self.exit_status()
            if status is not None:
                raise StackError(
                    f"{self.spec.name} ended with status {status} while starting{self.last_words()}"
                )
            if time.monotonic() > deadline:
                raise StackError(
                    f"{self.spec.name} was not ready after {self.spec.start_seconds:g} s{self.last_words()}"
                )
            time.sleep(0.02)

    def last_words(self, lines: int = 5) -> str:
        """Return the last lines that were logged since the start, ready to be appended to a message."""
        try:
            written = self.spec.log.read_bytes()
        except OSError:
            return ""
        # A log that is shorter now was put aside meanwhile.
        since = written[self._log_from if self._log_from <= len(written) else 0 :]
        tail = "\n    ".join(since[-4000:].decode(errors="replace").strip().splitlines()[-lines:])
        return (
            f"; the end of {self.spec.log}:\n    {tail}"
            if tail
            else f"; it has said nothing in {self.spec.log}"
        )


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o666 & ~_UMASK)


def inherited_environment() -> dict[str, str]:
    """Return what children inherit: never settings of services, which come from the stack alone."""
    dropped = ("AUTH_", "REGISTRY_", "GATEWAY_", "METERING_", "NATS_", "REDIS_", "AWS_", "ARTCAFE_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    for key in ("ENVIRONMENT", "TABLE_PREFIX", "CREATE_TABLES", "LOG_LEVEL"):
        kept.pop(key, None)
    return kept


def start_time_of(pid: int) -> str | None:
    """Return a mark of when a process started, which with its pid names it for good; None if gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _start_time_from_ps(pid)
    return None if fields[0] == "Z" else fields[19]


def _start_time_from_ps(pid: int) -> str | None:
    """Ask `ps` where there is no /proc."""
    if Path("/proc/self/stat").exists():
        return None
    answer = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or None


def _die_with_parent(parent: int) -> Callable[[], None] | None:
    """Return what a child runs before its program: ask the kernel for SIGTERM when the launcher is gone."""
    libc = _LIBC
    if libc is None:
        return None

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # the launcher ended before the request was made
            os._exit(1)

    return ask
