"""Single servers as tests use them."""

import os
import subprocess
import sys
from pathlib import Path

import nats
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from artcafe_devstack import binaries, ports, servers
from artcafe_devstack.process import ManagedProcess, ProcessSpec, StackError


async def test_nats_keeps_a_stream_over_kill_and_start(tmp_path: Path) -> None:
    """What JetStream has acknowledged is there after SIGKILL, at the same address."""
    with servers.nats_server(tmp_path) as server:
        client = await nats.connect(server.url)
        jetstream = client.jetstream()
        await jetstream.add_stream(name="S", subjects=["s.>"])
        await jetstream.publish("s.1", b"kept")
        await client.close()
        first = server.pid
        server.kill()
        assert server.process.exit_status() == -9
        server.start()
        assert server.pid != first
        client = await nats.connect(server.url)
        assert (await client.jetstream().get_msg("S", 1)).data == b"kept"
        await client.close()


def test_valkey_wants_its_password_and_keeps_data(tmp_path: Path) -> None:
    """Nobody gets in without the password, and a clean stop loses nothing."""
    with servers.valkey_server(tmp_path, password="abc123") as server:
        with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.get("x")
        with redis.Redis.from_url(server.url) as client:
            client.set("x", "1")
        assert "abc123" not in Path(f"/proc/{server.pid}/cmdline").read_text()
        server.stop()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("x") == b"1"


def test_a_frozen_server_answers_again_when_thawed(tmp_path: Path) -> None:
    """Freezing stops the answers, not the process."""
    with servers.valkey_server(tmp_path) as server:
        server.freeze()
        with (
            redis.Redis(port=server.port, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)) as client,
            pytest.raises(redis.TimeoutError),
        ):
            client.ping()
        server.thaw()
        with redis.Redis(port=server.port, socket_timeout=30) as client:
            assert client.ping()


def test_a_frozen_server_is_stopped_cleanly(tmp_path: Path) -> None:
    """A block that ends while its server is frozen does not wait for a deadline."""
    with servers.valkey_server(tmp_path) as server:
        server.freeze()
    assert server.process.exit_status() == 0, "it was ended by force, after the deadline"


def test_servers_end_with_their_block(tmp_path: Path) -> None:
    """Nothing is left running when a test is over."""
    with servers.nats_server(tmp_path) as server:
        pid = server.pid
        assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_port_that_is_taken_is_told_with_the_servers_own_words(tmp_path: Path) -> None:
    """A fixed port that is in use fails with the server's message instead of waiting for ever."""
    with (
        servers.nats_server(tmp_path / "a") as first,
        pytest.raises(StackError, match=r"(?s)nats ended.*in use"),
    ):
        # The readiness probe is answered by the first server, but the second one's end is noticed first
        # or soon after.
        _start_second_nats(tmp_path / "b", first.port)


def _start_second_nats(folder: Path, port: int) -> None:
    spec = servers.nats_spec(folder, port)
    process = ManagedProcess(
        ProcessSpec(name=spec.name, argv=spec.argv, log=spec.log, ready=lambda: False, start_seconds=60)
    )
    process.start()
    process.wait_ready()


def test_a_missing_program_is_told_with_what_provides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the programs names the command that installs it."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(binaries, "_package_folder", lambda name: None)
    monkeypatch.setattr("sysconfig.get_path", lambda name: "/nowhere")
    for find in (binaries.nginx, binaries.valkey_server, binaries.nats_server):
        with pytest.raises(StackError, match="make setup"):
            find()


def test_a_missing_emulator_environment_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wrong variable is named, and so is the environment that make would have made."""
    monkeypatch.setenv("ARTCAFE_EMULATOR_PYTHON", "/nowhere/python")
    with pytest.raises(StackError, match="ARTCAFE_EMULATOR_PYTHON"):
        binaries.emulator_python()
    monkeypatch.delenv("ARTCAFE_EMULATOR_PYTHON")
    monkeypatch.setattr("sys.prefix", str(tmp_path / "venv"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StackError, match="make setup"):
        binaries.emulator_python()


def test_a_free_port_is_free_until_somebody_listens() -> None:
    """A port with a listener is not handed out."""
    import socket

    port = ports.free_port()
    assert ports.is_free(port)
    with socket.create_server(("127.0.0.1", port)):
        assert not ports.is_free(port)


def test_a_port_is_given_to_one_process_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stacks that start at once do not both wait for the port that neither listens on yet."""
    port = ports.free_port()
    for name in ("_FIRST", "_LAST"):
        monkeypatch.setattr(ports, name, port)
    with pytest.raises(OSError, match="no free port"):
        ports.free_port()
    asking = (
        f"from artcafe_devstack import ports; ports._FIRST = ports._LAST = {port}; print(ports.free_port())"
    )
    other = [sys.executable, "-c", asking]
    assert subprocess.run(other, capture_output=True, check=False).returncode == 1
    while ports._claims:
        os.close(ports._claims.popleft())
    for _ in range(2):
        assert int(subprocess.run(other, capture_output=True, check=True).stdout) == port


def test_claims_are_bounded() -> None:
    """A process that asks for ports all its life keeps the last ones only."""
    # No ports, and nobody else's: one that is let go may be given to another test at once.
    first = 1_000_000 + os.getpid() * 1000
    given = range(first, first + 2 * ports._CLAIMS_MAX)
    assert all(ports.claim(number) for number in given)
    assert len(ports._claims) == ports._CLAIMS_MAX
    assert ports.claim(given[0]) and not ports.claim(given[-1])
