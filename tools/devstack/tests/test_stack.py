"""The stack without its services: its launcher as a person uses it, `DevStack` as tests do."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from artcafe_devstack.__main__ import ready_message
from artcafe_devstack.devstack import DevStack
from artcafe_devstack.ports import free_port, is_free
from artcafe_devstack.process import StackError, start_time_of
from artcafe_devstack.stack import Stack, StackOptions

_COMMAND = [sys.executable, "-m", "artcafe_devstack", "--services", "none"]
_STORES = {"nats", "valkey", "aws", "edge"}
# As long as anything takes on a busy machine.
_PATIENCE_SECONDS = 60


class _Launcher:
    """`python -m artcafe_devstack` in a process of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.output = folder.with_suffix(".out")
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*_COMMAND, "--state", str(folder), "--port", str(self.port), *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> dict[str, object]:
        """Wait for demo.json and return it."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            with contextlib.suppress(FileNotFoundError):
                demo = json.loads((self.folder / "demo.json").read_text())
                if demo["launcher_pid"] == self.process.pid:
                    return dict(demo)
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.02)

    def pids(self) -> dict[str, int]:
        """Return the ids of its processes."""
        return {name: int(pid) for name, (pid, _) in self.noted().items()}

    def noted(self) -> dict[str, tuple[int, str]]:
        """Return the processes with their start times."""
        noted = json.loads((self.folder / "processes.json").read_text())
        return {name: (pid, started) for name, (pid, started) in noted.items()}

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(_PATIENCE_SECONDS)


@contextmanager
def _launched(folder: Path, *arguments: str) -> Iterator[_Launcher]:
    launcher = _Launcher(folder, *arguments)
    try:
        yield launcher
    finally:
        if launcher.process.poll() is None:
            launcher.end()


def _gone(pid: int) -> bool:
    return start_time_of(pid) is None


def _until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not all(_gone(pid) for pid in pids):
        assert time.monotonic() < deadline, "processes are left running"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_that_was_started(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end each process cleanly, in bounded time, with status 0."""
    with _launched(tmp_path / "state") as launcher:
        launcher.wait_ready()
        pids = launcher.pids()
        assert set(pids) == _STORES
        assert launcher.end(number) == 0
        assert all(_gone(pid) for pid in pids.values())
        assert not (tmp_path / "state" / "demo.json").exists()
        assert "did not end by themselves" not in launcher.output.read_text()


def test_a_second_start_finds_everything_as_it_was(tmp_path: Path) -> None:
    """Data, ports and secrets are those of the first start."""
    state = tmp_path / "state"
    with _launched(state) as launcher:
        first = launcher.wait_ready()
        with _valkey(first) as client:
            client.set("kept", "yes")
    secrets = (state / "secrets.json").read_text()
    with _launched(state) as launcher:
        second = launcher.wait_ready()
        assert second["urls"] == first["urls"]
        assert (state / "secrets.json").read_text() == secrets
        with _valkey(second) as client:
            assert client.get("kept") == b"yes"


def _valkey(demo: dict[str, object]) -> "redis.Redis":
    urls = demo["urls"]
    assert isinstance(urls, dict)
    return redis.Redis.from_url(urls["valkey"]["redis"])


def test_what_a_killed_launcher_leaves_ends_by_itself(tmp_path: Path) -> None:
    """After kill -9 of the launcher its children are told by the kernel, and the folder can be used again."""
    state = tmp_path / "state"
    with _launched(state) as launcher:
        launcher.wait_ready()
        pids = launcher.pids()
        launcher.end(signal.SIGKILL)
        _until_gone(list(pids.values()))
    with _launched(state) as launcher:
        launcher.wait_ready()


def test_what_outlives_a_killed_launcher_is_stopped_by_the_next(tmp_path: Path) -> None:
    """A process that was frozen when its launcher was killed does not keep its port for ever."""
    state = tmp_path / "state"
    with _launched(state) as launcher:
        launcher.wait_ready()
        frozen = launcher.pids()["valkey"]
        os.kill(frozen, signal.SIGSTOP)
        launcher.end(signal.SIGKILL)
        _until_gone([pid for name, pid in launcher.pids().items() if name != "valkey"])
        assert not _gone(frozen)
    with _launched(state) as launcher:
        launcher.wait_ready()
        assert _gone(frozen)


def test_what_is_advised_when_it_is_ready_works_there(tmp_path: Path) -> None:
    """Without services there is no demo to show and no health but 503."""
    with _launched(tmp_path / "state") as launcher:
        launcher.wait_ready()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while "Ctrl-C stops everything" not in launcher.output.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        said = launcher.output.read_text()
    assert "Without auth, gateway, metering, registry" in said
    assert "make demo" not in said and "/health" not in said and "In another terminal" not in said


@pytest.mark.parametrize("demo", [True, False])
def test_a_whole_stack_advises_the_demo_where_there_is_one(tmp_path: Path, demo: bool) -> None:
    """With --no-demo only the health of the platform is left to look at."""
    stack = Stack(StackOptions(tmp_path, demo=demo), lambda _: None)
    stack.ports, stack.secrets = {"edge": 8080}, {"demo_password": "pass"}
    said = ready_message(stack, 1.0)
    assert ("make demo" in said, "Password" in said) == (demo, demo)
    login = f". {os.path.relpath(sys.prefix)}/bin/activate; artcafe login --email demo@artcafe.local\n"
    assert (login in said) is demo
    assert "curl http://127.0.0.1:8080/health" in said and "Without" not in said


def test_a_crashed_process_is_started_again_and_told_once(tmp_path: Path) -> None:
    """The new id is in demo.json, the console has one line about it."""
    with _launched(tmp_path / "state") as launcher:
        launcher.wait_ready()
        before = launcher.pids()["nats"]
        os.kill(before, signal.SIGKILL)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while "nats is ready again" not in launcher.output.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pids = launcher.wait_ready()["pids"]
        assert isinstance(pids, dict)
        assert pids["nats"] != before
        assert launcher.output.read_text().count("nats was ended by SIGKILL") == 1


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    """The message says which port, and what to do; nothing is left running."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = _run(tmp_path / "state", "--port", str(port))
    assert done.returncode == 1
    assert (
        done.stderr == f"artcafe: port {port} is in use: stop what uses it, or set EDGE_PORT to another one\n"
    )
    assert not (tmp_path / "state" / "processes.json").exists()


def test_a_folder_in_use_is_one_clear_line(tmp_path: Path) -> None:
    """A second stack in the same folder is refused and does not disturb the first."""
    state = tmp_path / "state"
    with _launched(state) as launcher:
        launcher.wait_ready()
        pids = launcher.pids()
        done = _run(state, "--port", str(free_port()))
        assert done.returncode == 1
        assert done.stderr.startswith("artcafe: a stack is already running in")
        assert done.stderr.count("\n") == 1
        assert (state / "demo.json").exists()
        assert launcher.pids() == pids


def test_a_missing_tool_is_one_clear_line(tmp_path: Path) -> None:
    """What is missing is named together with what installs it."""
    done = _run(
        tmp_path / "state", "--port", str(free_port()), env={"ARTCAFE_EMULATOR_PYTHON": "/nowhere/python"}
    )
    assert done.returncode == 1
    assert done.stderr == "artcafe: ARTCAFE_EMULATOR_PYTHON names no file: /nowhere/python\n"


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        ((), {"EDGE_PORT": "many"}, "EDGE_PORT is not a port: many"),
        (("--gateways", "0"), {}, "at least one gateway is needed"),
        (("--services", "auht"), {}, "there is no service auht"),
        (("--set", "X"), {}, "--set takes NAME=VALUE"),
        (("--set", "FOO=1"), {}, "FOO is not a setting"),
    ],
)
def test_a_wrong_option_is_one_clear_line(
    tmp_path: Path, arguments: tuple[str, ...], env: dict[str, str], message: str
) -> None:
    """A mistake on the command line or in the environment is told before anything is started."""
    done = _run(tmp_path / "state", *arguments, env=env)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def _run(
    folder: Path, *arguments: str, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*_COMMAND, "--state", str(folder), *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE_SECONDS,
    )


def test_help_tells_what_it_does() -> None:
    """`--help` names the folder, the port and how to stop."""
    done = subprocess.run(
        [sys.executable, "-m", "artcafe_devstack", "--help"], capture_output=True, text=True, check=True
    )
    for word in ("ARTCAFE_STATE", "EDGE_PORT", "Ctrl-C"):
        assert word in done.stdout


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """Run the stores and the edge for the tests that leave them as they were."""
    with DevStack(tmp_path_factory.mktemp("stack"), services=set()) as running:
        yield running
    assert running.forced == []


def test_the_edge_is_up_and_tells_that_no_service_is(stack: DevStack) -> None:
    """The one address answers, and a service that does not run is unavailable."""
    request = urllib.request.Request(f"{stack.base_url}/api/v1/agents")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS)
    assert refused.value.code == 503
    refused.value.close()


def test_demo_json_is_private_and_has_addresses_and_processes(stack: DevStack) -> None:
    """Whoever may read the file finds everything; it holds passwords, so that is the owner alone."""
    demo = stack.demo
    assert demo["base_url"] == stack.base_url
    assert set(demo["pids"]) == _STORES == set(stack.names)
    assert demo["pids"] == stack.pids
    assert {"http", "ws"} == set(demo["urls"]["gateway-2"])
    file = stack.log("nats").parent.parent / "demo.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_process_can_be_killed_stopped_frozen_and_brought_back(stack: DevStack) -> None:
    """What a chaos test does to a process, one after the other."""
    for name in ("valkey", "aws", "nats", "edge"):
        before = stack.pids[name]
        stack.kill(name)
        stack.wait_ready(name)
        assert stack.pids[name] != before
    with stack.without("valkey"):
        assert "valkey" not in stack.pids
    stack.restart("nats")
    stack.freeze("valkey")
    stack.thaw("valkey")
    assert set(stack.pids) == _STORES


async def test_it_runs_beside_an_event_loop(tmp_path: Path) -> None:
    """`async with` starts and stops it without blocking the loop, and its port is free afterwards."""
    async with DevStack(tmp_path, services=set()) as running:
        port = int(running.base_url.rpartition(":")[2])
        assert not is_free(port)
    assert is_free(port)


def test_a_failed_start_leaves_nothing_running(tmp_path: Path) -> None:
    """A service that cannot start ends the whole start, with its last words."""
    stack = DevStack(tmp_path, services={"auth"}, env={"auth": {"AUTH_HTTP_PROT": "1"}})
    with pytest.raises(StackError, match=r"auth ended with status 2(?s:.*)AUTH_HTTP_PROT"):
        stack.start()
    assert stack.pids == {}
    assert not (tmp_path / "processes.json").exists()
    stack.close()


def test_options_are_checked() -> None:
    """A misspelt service in a test is an error, not a stack without it."""
    with pytest.raises(StackError, match="no service gatway"):
        StackOptions(Path("x"), services=frozenset({"gatway"}))
