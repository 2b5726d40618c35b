"""The folder of a stack: one owner, secrets, ports, and what a killed launcher has left in it."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from artcafe_devstack.process import StackError, start_time_of
from artcafe_devstack.state import StateFolder


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFolder]:
    """Open a new folder."""
    folder = StateFolder(tmp_path / "state")
    folder.open()
    yield folder
    folder.close()


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process that is in a group of its own, as all processes of a stack are."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_two_stacks_do_not_share_a_folder(state: StateFolder) -> None:
    """The second one is told which process holds it, and takes nothing from it."""
    second = StateFolder(state.path)
    with pytest.raises(StackError, match=f"already running in .* \\(process {os.getpid()}\\)"):
        second.open()
    second.close()
    with pytest.raises(StackError):
        StateFolder(state.path).open()


def test_a_lock_of_a_process_that_is_gone_is_no_obstacle(tmp_path: Path) -> None:
    """The lock file of a killed launcher stays, its lock does not."""
    program = "import sys; from pathlib import Path; from artcafe_devstack.state import StateFolder\n"
    program += (
        "StateFolder(Path(sys.argv[1])).open(); import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "lock").exists()
    folder = StateFolder(tmp_path)
    folder.open()
    folder.close()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """The message has the folder and the system's reason."""
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match=r"cannot use the folder .*file/state"):
        StateFolder(tmp_path / "file" / "state").open()


def test_leftovers_of_a_killed_launcher_are_stopped(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    """A process that is noted with its start time is ended before the folder is used again."""
    folder = StateFolder(tmp_path)
    folder.open()
    folder.note_processes({"gateway-1": sleeper.pid})
    os.close(folder._lock)
    again = StateFolder(tmp_path)
    again.open()
    assert sleeper.wait(30) == -signal.SIGTERM
    again.close()


def test_a_frozen_leftover_is_stopped(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    """A process that was suspended when its launcher was killed does not stay for ever."""
    folder = StateFolder(tmp_path)
    folder.open()
    folder.note_processes({"gateway-1": sleeper.pid})
    os.close(folder._lock)
    os.kill(sleeper.pid, signal.SIGSTOP)
    again = StateFolder(tmp_path)
    again.open()
    assert sleeper.wait(30) == -signal.SIGTERM
    again.close()


def test_a_process_that_got_the_number_of_an_old_one_is_left_alone(
    state: StateFolder, sleeper: "subprocess.Popen[bytes]"
) -> None:
    """A pid alone does not make a process ours: its start time must be the noted one."""
    path = state.path
    state.write("processes.json", {"gateway-1": [sleeper.pid, "12345"]})
    os.close(state._lock)
    again = StateFolder(path)
    again.open()
    assert sleeper.poll() is None
    state._lock = again._lock


def test_start_times_tell_processes_apart(sleeper: "subprocess.Popen[bytes]") -> None:
    """A process has one start time as long as it lives, and none when it is gone."""
    assert start_time_of(sleeper.pid) == start_time_of(sleeper.pid)
    assert start_time_of(sleeper.pid) is not None
    sleeper.kill()
    sleeper.wait()
    assert start_time_of(sleeper.pid) is None


def test_secrets_are_generated_once_and_for_the_owner_only(state: StateFolder) -> None:
    """A second start has the same passwords, no two are equal, and the file is private."""
    secrets = state.secrets()
    assert state.secrets() == secrets
    assert len(set(secrets.values())) == len(secrets)
    assert _mode(state.path / "secrets.json") == 0o600
    assert _mode(state.path) == 0o700
    assert {"nats_auth", "nats_registry", "nats_gateway", "nats_metering", "valkey", "aws"} <= set(secrets)
    for name, value in secrets.items():
        if name.startswith(("nats_", "valkey", "demo_")):
            assert value.isalnum()
            assert value[0].isalpha(), "nats-server reads what begins with a digit as a number"


def test_secrets_of_an_older_version_are_kept_when_new_ones_are_added(state: StateFolder) -> None:
    """An upgrade adds what is missing and changes nothing that is in use."""
    state.write("secrets.json", {"valkey": "old"})
    secrets = state.secrets()
    assert secrets["valkey"] == "old"
    assert secrets["nats_auth"]
    assert state.secrets() == secrets


def test_ports_are_taken_again_unless_somebody_else_has_them(state: StateFolder) -> None:
    """Addresses stay the same over restarts, and a port in use is replaced by another."""
    first = state.ports(["nats", "auth"])
    assert first["nats"] != first["auth"]
    assert state.ports(["nats", "auth"]) == first
    with socket.create_server(("127.0.0.1", first["nats"])):
        second = state.ports(["nats", "auth"])
    assert second["auth"] == first["auth"]
    assert second["nats"] != first["nats"]


def test_files_are_replaced_in_one_step(state: StateFolder) -> None:
    """A reader sees the old content or the new one, and what is not JSON counts as missing."""
    state.write("x.json", {"a": 1})
    with (state.path / "x.json").open() as before:
        state.write("x.json", {"a": 2})
        assert json.load(before) == {"a": 1}
    assert state.read("x.json") == {"a": 2}
    (state.path / "x.json").write_text("{")
    assert state.read("x.json") is None
    assert not list(state.path.glob("*.tmp")), "nothing half-written is left"


def test_who_runs_in_a_folder_is_told_by_its_lock(tmp_path: Path) -> None:
    """Never started, starting, ready, stopped: each is told in words of its own."""
    folder = StateFolder(tmp_path / "state")
    with pytest.raises(StackError, match=f"no stack is running in {folder.path}: start one with `make run`"):
        folder.launcher()
    folder.open()
    try:
        assert StateFolder(folder.path).launcher() == os.getpid()
        with pytest.raises(StackError, match=f"process {os.getpid()}.* is starting or stopping"):
            StateFolder(folder.path).running()
        folder.write("demo.json", {"launcher_pid": os.getpid(), "base_url": "http://127.0.0.1:1"})
        assert StateFolder(folder.path).running()["base_url"] == "http://127.0.0.1:1"
        with pytest.raises(StackError, match="already running"):
            StateFolder(folder.path).open()
    finally:
        folder.close()
    with pytest.raises(StackError, match="no stack is running in"):
        folder.running()


def test_a_launcher_that_was_killed_is_told_by_what_it_has_left(tmp_path: Path) -> None:
    """Its demo.json is no sign of life, even where another process has its number by now."""
    folder = StateFolder(tmp_path)
    folder.open()
    folder.write("demo.json", {"launcher_pid": os.getpid()})
    os.close(folder._lock)
    with pytest.raises(StackError, match=f"process {os.getpid()}.* is dead.* again with `make run`"):
        StateFolder(tmp_path).running()


def test_large_logs_are_put_aside(tmp_path: Path) -> None:
    """Logs do not grow from start to start for ever."""
    folder = StateFolder(tmp_path)
    folder.logs.mkdir()
    (folder.logs / "auth.log").write_bytes(b"x" * 11_000_000)
    (folder.logs / "nats.log").write_text("short")
    folder.open()
    folder.close()
    assert sorted(path.name for path in folder.logs.iterdir()) == ["auth.log.1", "nats.log"]


def test_what_is_in_a_folder_that_was_open_is_closed_to_others(tmp_path: Path) -> None:
    """Logs and data that an earlier version left readable are out of reach at the next start."""
    for name in ("logs", "valkey"):
        (tmp_path / name).mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    folder = StateFolder(tmp_path)
    folder.open()
    try:
        assert (_mode(folder.logs), _mode(folder.of("valkey"))) == (0o700, 0o700)
    finally:
        folder.close()
