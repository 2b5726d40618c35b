"""Processes that are started, crash, come back and are stopped, in order."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from artcafe_devstack.process import ManagedProcess, ProcessSpec, StackError
from artcafe_devstack.supervisor import Supervisor

# Writes its name when it is up and when it ends, so that the order of both can be read from one file.
_PROGRAM = """
import signal, sys, time
name, book = sys.argv[1:]
def note(word):
    with open(book, "a") as file:
        file.write(f"{word} {name}\\n")
def end(*_):
    note("end")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
note("up")
while True:
    time.sleep(0.05)
"""


def _spec(folder: Path, name: str, program: str = _PROGRAM, **more: object) -> ProcessSpec:
    book = folder / "book"
    return ProcessSpec(
        name=name,
        argv=[sys.executable, "-c", program, name, str(book)],
        log=folder / f"{name}.log",
        ready=lambda: book.exists() and f"up {name}\n" in book.read_text(),
        **more,  # type: ignore[arg-type]
    )


class _Run:
    """A supervisor whose owner is a thread, as in the stack."""

    def __init__(self, groups: list[list[ProcessSpec]]) -> None:
        self.said: list[str] = []
        self.noted: list[dict[str, int]] = []
        self.supervisor = Supervisor(groups, report=self.said.append, on_pids=self._note)

    def _note(self) -> None:
        self.noted.append(self.supervisor.pids())


@contextmanager
def _running(groups: list[list[ProcessSpec]]) -> Iterator[_Run]:
    run = _Run(groups)
    stop = threading.Event()
    started = threading.Event()

    def own() -> None:
        run.supervisor.start_all(range(len(groups)), stop)
        started.set()
        while not stop.wait(0.02):
            run.supervisor.tick()
        run.supervisor.stop_all()

    thread = threading.Thread(target=own)
    thread.start()
    try:
        assert started.wait(60)
        yield run
    finally:
        stop.set()
        thread.join()


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_groups_start_in_order_and_stop_in_reverse_order(tmp_path: Path) -> None:
    """A group is up before the next one starts, and ends after it has ended."""
    with _running(
        [[_spec(tmp_path, "store")], [_spec(tmp_path, "service")], [_spec(tmp_path, "gateway")]]
    ) as run:
        assert run.supervisor.names == ["store", "service", "gateway"]
        assert set(run.supervisor.pids()) == {"store", "service", "gateway"}
    book = (tmp_path / "book").read_text().splitlines()
    assert book == ["up store", "up service", "up gateway", "end gateway", "end service", "end store"]


def test_a_crashed_process_comes_back_and_is_reported_once(tmp_path: Path) -> None:
    """SIGKILL is followed by a new process with another id, which is written down, and by one line."""
    with _running([[_spec(tmp_path, "one"), _spec(tmp_path, "two")]]) as run:
        before = run.supervisor.pids()
        run.supervisor.kill("one")
        run.supervisor.wait_ready("one", 60)
        after = run.supervisor.pids()
        assert after["one"] != before["one"]
        assert after["two"] == before["two"]
        assert run.noted[-1] == after
        assert [line for line in run.said if "SIGKILL" in line] == [
            "one was ended by SIGKILL: starting it again"
        ]
        assert run.said[-1] == "one is ready again"


def test_what_is_ready_again_was_written_down_before_it_is_told(tmp_path: Path) -> None:
    """Whoever reads that a process is back finds its new id; whoever waits for it, that it was told."""
    told: dict[str, tuple[bool, bool]] = {}
    noted: list[dict[str, int]] = []

    def report(line: str) -> None:
        told[line] = noted[-1] == supervisor.pids(), supervisor.is_ready("one")

    # It serves at once, before the owner of the processes has looked at anything else.
    spec = replace(_spec(tmp_path, "one"), ready=lambda: True)
    supervisor = Supervisor([[spec]], report=report, on_pids=lambda: noted.append(supervisor.pids()))
    supervisor.start_all([0], threading.Event())
    try:
        supervisor.kill("one")
        deadline = time.monotonic() + 60
        while not supervisor.is_ready("one"):
            assert time.monotonic() < deadline
            supervisor.tick()
    finally:
        supervisor.stop_all()
    assert told["one is ready again"] == (True, False)


def test_a_process_that_does_not_stay_up_is_tried_with_pauses_and_reported_twice(tmp_path: Path) -> None:
    """A crash loop neither burns the machine nor floods the console."""
    program = _PROGRAM.replace(
        'note("up")', 'note("up"); import os; sys.exit(3) if os.path.exists(book + "x") else 0'
    )
    with _running([[_spec(tmp_path, "one", program)]]) as run:
        (tmp_path / "bookx").touch()
        run.supervisor.kill("one")
        _until(lambda: any("does not stay up" in line for line in run.said))
        starts = (tmp_path / "book").read_text().count("up one")
        assert starts == 5, "four tries, each after a longer pause than the one before"
        assert [line for line in run.said if "starting it again" in line] == [
            "one was ended by SIGKILL: starting it again"
        ]


def test_a_stopped_process_stays_stopped_until_it_is_started(tmp_path: Path) -> None:
    """A stop that was asked for is no crash."""
    with _running([[_spec(tmp_path, "one")]]) as run:
        assert run.supervisor.stop("one")
        time.sleep(0.3)
        assert run.supervisor.pids() == {}
        assert not run.supervisor.is_ready("one")
        run.supervisor.start("one")
        run.supervisor.wait_ready("one", 60)
        assert run.said == ["one is ready again"]


def test_a_process_that_ignores_the_request_is_ended_by_force(tmp_path: Path) -> None:
    """Stopping takes bounded time, whatever the process does."""
    program = _PROGRAM.replace(
        "signal.signal(signal.SIGTERM, end)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    )
    with _running([[_spec(tmp_path, "deaf", program, stop_seconds=0.3)]]) as run:
        began = time.monotonic()
        assert run.supervisor.stop("deaf") is False
        assert time.monotonic() - began < 9


def test_what_a_killed_process_has_started_is_ended_too(tmp_path: Path) -> None:
    """A worker does not outlive its crashed parent and hold its port."""
    program = "import subprocess\nworker = subprocess.Popen(['sleep', '1000'])\n" + _PROGRAM.replace(
        'note("up")', 'open(book + ".worker", "w").write(str(worker.pid)); note("up")'
    )
    with _running([[_spec(tmp_path, "parent", program)]]) as run:
        worker = int((tmp_path / "book.worker").read_text())
        os.kill(run.supervisor.pids()["parent"], signal.SIGKILL)
        _until(lambda: not _alive(worker))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_that_ends_while_starting_is_told_with_its_last_words(tmp_path: Path) -> None:
    """The reason is on the console, not only in a log that somebody has to find first."""
    spec = _spec(tmp_path, "broken", "import sys; print('the table is missing'); sys.exit(7)")
    supervisor = Supervisor([[spec]], report=lambda line: None, on_pids=lambda: None)
    with pytest.raises(StackError, match=r"(?s)broken ended with status 7.*the table is missing"):
        supervisor.start_all([0], threading.Event())


def test_last_words_are_those_of_the_last_start(tmp_path: Path) -> None:
    """What an earlier start has logged is no reason of this one's end, and would lead astray."""
    spec = _spec(tmp_path, "broken", "import sys; sys.exit(7)")
    spec.log.write_text("yesterday's reason\n")
    process = ManagedProcess(spec)
    process.start()
    _until(lambda: process.exit_status() is not None)
    assert process.last_words() == f"; it has said nothing in {spec.log}"

    process = ManagedProcess(_spec(tmp_path, "broken", "import sys; print('the reason'); sys.exit(7)"))
    process.start()
    _until(lambda: process.exit_status() is not None)
    assert process.last_words() == f"; the end of {spec.log}:\n    the reason"


def test_a_process_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    """A start has a deadline."""
    spec = _spec(tmp_path, "slow", "import time; time.sleep(60)", start_seconds=0.3)
    supervisor = Supervisor([[spec]], report=lambda line: None, on_pids=lambda: None)
    try:
        with pytest.raises(StackError, match=r"slow was not ready after 0\.3 s"):
            supervisor.start_all([0], threading.Event())
    finally:
        supervisor.stop_all()


def test_an_unknown_name_is_told_with_the_known_ones(tmp_path: Path) -> None:
    """A misspelt name in a test does not pass as a process that never runs."""
    supervisor = Supervisor([[_spec(tmp_path, "one")]], report=lambda line: None, on_pids=lambda: None)
    with pytest.raises(StackError, match="no process tow; there are one"):
        supervisor.kill("tow")
