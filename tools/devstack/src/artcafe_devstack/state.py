"""The folder in which a stack keeps everything: data, logs, secrets, and who runs in it at the moment.

| path | what |
|---|---|
| `lock` | held by the launcher as long as it runs: one stack per folder |
| `processes.json` | pid and start time of each process: a launcher finds what a killed one left |
| `secrets.json` | passwords and keys, generated at the first start, readable by the owner only |
| `ports.json` | the ports of the last start, which are taken again if they are free |
| `demo.json` | for clients on this machine: address, sign-in, agents; there only while the stack is ready |
| `logs/` | one file per process |
| `nats/`, `valkey/`, `aws/`, `edge/`, `auth/`, ... | each process's own folder |
"""

import base64
import fcntl
import json
import os
import secrets
import signal
import string
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from artcafe_devstack.ports import claim, free_port, is_free
from artcafe_devstack.process import StackError, start_time_of

_LETTERS_AND_DIGITS = string.ascii_letters + string.digits
_STALE_SECONDS = 10.0
_LOG_BYTES_MAX = 10 * 1024 * 1024
NATS_USERS = ("auth", "registry", "gateway", "metering")


class StateFolder:
    """A stack's folder, open for one launcher at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._named = path
        self._lock = -1

    @property
    def logs(self) -> Path:
        """Where the processes write."""
        return self.path / "logs"

    @property
    def demo_file(self) -> Path:
        """What clients on this machine read; see the module."""
        return self.path / "demo.json"

    def of(self, name: str) -> Path:
        """Return the folder of one process, made if missing."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        # What an earlier version has put there was not closed to others itself.
        folder.chmod(0o700)
        return folder

    def open(self) -> None:
        """Take the folder, make it if missing, and stop what a killed launcher has left running in it.

        Raises:
            StackError: another stack runs in it, or it cannot be written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.of(self.logs.name)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StackError(f"cannot use the folder {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 32, 0).decode().strip()
            os.close(self._lock)
            self._lock = -1
            raise StackError(
                f"a stack is already running in {self.path} (process {holder}); "
                "stop it, or set ARTCAFE_STATE to another folder"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        self.demo_file.unlink(missing_ok=True)
        self._stop_leftovers()
        self._shorten_logs()

    def close(self) -> None:
        """Give the folder free."""
        self.demo_file.unlink(missing_ok=True)
        (self.path / "processes.json").unlink(missing_ok=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def launcher(self) -> int:
        """Return the process that runs a stack in the folder.

        Raises:
            StackError: none does, with what to do.
        """
        holder = self._holder()
        if holder is not None:
            return holder
        if demo := self.read("demo.json"):
            raise StackError(
                f"the launcher of the stack in {self._named} (process {demo.get('launcher_pid')}) is dead,"
                " and what it had started ends with it: start it again with `make run`"
            )
        raise StackError(f"no stack is running in {self._named}: start one with `make run`")

    def running(self) -> dict[str, Any]:
        """Return what `demo.json` tells of the stack that runs in the folder and is ready.

        Raises:
            StackError: there is none, with what to do.
        """
        holder = self.launcher()
        demo: dict[str, Any] = self.read("demo.json") or {}
        if demo.get("launcher_pid") != holder:
            raise StackError(
                f"the stack in {self._named} (process {holder}) is starting or stopping: wait until"
                " `make run` says that it is ready; if that does not come, stop it and start it again"
            )
        return demo

    def _holder(self) -> int | None:
        """Return who holds the lock; the lock of a process that is gone is gone, too."""
        try:
            lock = os.open(self.path / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return int(os.pread(lock, 32, 0).strip() or 0)
        finally:
            os.close(lock)
        return None

    def secrets(self) -> dict[str, str]:
        """Return the generated secrets, those made at an earlier start if there are any."""
        known: dict[str, str] = self.read("secrets.json") or {}
        made = {f"nats_{user}": _password() for user in NATS_USERS}
        made["valkey"] = _password()
        made["aws"] = _password()
        made["registry_cursor_key"] = base64.b64encode(secrets.token_bytes(32)).decode()
        made["demo_password"] = _password(16)
        if set(made) - set(known):
            known = {**made, **known}
            self.write("secrets.json", known)
        return known

    def ports(self, names: Iterable[str]) -> dict[str, int]:
        """Return a port for each name: the one of the last start where it is still free, else a new one."""
        known: dict[str, int] = self.read("ports.json") or {}
        ports: dict[str, int] = {}
        for name in names:
            port = known.get(name)
            while port is None or port in ports.values() or not is_free(port):
                port = free_port()
            claim(port)
            ports[name] = port
        self.write("ports.json", {**known, **ports})
        return ports

    def note_processes(self, pids: Mapping[str, int]) -> None:
        """Write down what runs, for the next launcher in case this one is killed."""
        self.write("processes.json", {name: [pid, start_time_of(pid)] for name, pid in pids.items()})

    def read(self, name: str) -> Any:
        """Return the content of a JSON file of the folder, None if it is missing or not whole."""
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return None

    def write(self, name: str, content: Any) -> None:
        """Replace a JSON file of the folder in one step, readable by the owner only."""
        partial = self.path / f".{name}.tmp"
        partial.unlink(missing_ok=True)
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
        partial.rename(self.path / name)

    def _stop_leftovers(self) -> None:
        """Stop the processes of a launcher that was killed: those whose pid and start time are noted."""
        noted: dict[str, list[Any]] = self.read("processes.json") or {}
        left = {pid: started for pid, started in noted.values() if started and start_time_of(pid) == started}
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in left:
                _signal_group(pid, number)
            deadline = time.monotonic() + _STALE_SECONDS
            while left and time.monotonic() < deadline:
                time.sleep(0.02)
                left = {pid: started for pid, started in left.items() if start_time_of(pid) == started}
        if left:
            raise StackError(f"processes of an earlier stack cannot be stopped: {sorted(left)}")

    def _shorten_logs(self) -> None:
        """Put large logs aside, so that they do not grow for ever; one older file of each is kept."""
        for log in self.logs.glob("*.log"):
            if log.stat().st_size > _LOG_BYTES_MAX:
                log.replace(log.with_suffix(".log.1"))


def _password(length: int = 32) -> str:
    # It begins with a letter: nats-server would read one that begins with a digit as a number.
    first = secrets.choice(string.ascii_letters)
    return first + "".join(secrets.choice(_LETTERS_AND_DIGITS) for _ in range(length - 1))


def _signal_group(pid: int, number: signal.Signals) -> None:
    """Signal a process and what it has started; each process of a stack leads a group of its own."""
    try:
        os.killpg(pid, signal.SIGCONT)
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return
