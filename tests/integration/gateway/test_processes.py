"""Gateways as processes: several workers on one port, signals, kills, and how they start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidMessage

from artcafe_devstack.ports import free_port

PATIENCE_SECONDS = 60.0


async def workers(gateway: Any) -> dict[str, int]:
    """Return the workers that take connections by their server id, with how many of thirty came to each."""
    found: dict[str, int] = {}
    for number in range(30):
        client = await gateway.open(f"/ws/agent/probe{number}?challenge=t1&signature=good")
        server_id = (await client.expect("welcome"))["server_id"]
        found[server_id] = found.get(server_id, 0) + 1
        await client.socket.close()
    return found


def pids(gateway: Any) -> dict[str, int]:
    """Return the newest process of each worker, from what they logged at their start."""
    started = [record for record in gateway.log if record["event"] == "service_starting"]
    mine = gateway.process.pid
    return {record["server_id"]: record["pid"] for record in started if record["pid"] != mine}


async def both(gateway: Any) -> None:
    """Wait until both workers take connections."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            # One that is being killed loses its sockets one by one, and may lose last the one that listens.
            with contextlib.suppress(ConnectionError, InvalidMessage):
                if set(await workers(gateway)) == {"gateway-1-1", "gateway-1-2"}:
                    return
            await asyncio.sleep(0.1)


def alive(pid: int) -> bool:
    """Tell whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:1]


async def test_two_workers_share_a_port_and_one_that_dies_is_replaced(spawn_gateway: Any) -> None:
    """Both take connections; agents of one hear those of the other; kill -9 of one brings a new one."""
    gateway = await spawn_gateway(workers=2, lease_timeout=1.0, sweep_interval=0.2)
    await both(gateway)
    agents: dict[str, Any] = {}
    for number in range(50):
        client = await gateway.open(f"/ws/agent/a{number}?challenge=t1&signature=good")
        server_id = (await client.expect("welcome"))["server_id"]
        agents.setdefault(server_id, client)
        if len(agents) == 2:
            break
    first, second = agents["gateway-1-1"], agents["gateway-1-2"]
    await first.subscribe("room")
    await second.send(type="publish", channel="room", data=1)
    await first.expect("message", data=1)
    killed = pids(gateway)["gateway-1-1"]
    os.kill(killed, signal.SIGKILL)
    await first.closed()
    await second.nothing()
    await both(gateway)
    assert pids(gateway)["gateway-1-1"] != killed
    died = [record for record in gateway.log if record["event"] == "worker_died"]
    assert [(record["worker"], record["code"]) for record in died] == [(1, -signal.SIGKILL)]
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as http, asyncio.timeout(PATIENCE_SECONDS):
        while (await http.get(f"{gateway.http_url}/ready")).status_code != 200:
            await asyncio.sleep(0.1)


async def test_a_signal_to_the_whole_group_drains_every_worker(spawn_gateway: Any) -> None:
    """Told by the launcher and by the supervisor, a worker still says goodbye to everyone, then all end."""
    gateway = await spawn_gateway(workers=2)
    await both(gateway)
    clients = [await gateway.agent(f"a{number}") for number in range(10)]
    children = list(pids(gateway).values())
    gateway.process.send(signal.SIGTERM)
    for client in clients:
        assert (await client.closed())[0] == 1012
    assert await asyncio.to_thread(gateway.process.wait_stopped, PATIENCE_SECONDS)
    assert gateway.process.exit_status() == 0
    assert not any(alive(pid) for pid in children)
    events = [record["event"] for record in gateway.log]
    assert "service_stopped_at_once" not in events
    assert not [record for record in gateway.log if record["level"] in ("ERROR", "CRITICAL")]


async def test_workers_do_not_outlive_their_supervisor(spawn_gateway: Any) -> None:
    """When the supervisor is killed its workers drain and end, and leave the port to the next."""
    gateway = await spawn_gateway(workers=2)
    await both(gateway)
    client = await gateway.agent("alice")
    children = list(pids(gateway).values())
    os.kill(gateway.process.pid, signal.SIGKILL)
    assert (await client.closed())[0] == 1012
    async with asyncio.timeout(PATIENCE_SECONDS):
        while any(alive(pid) for pid in children):
            await asyncio.sleep(0.05)


async def test_sigterm_ends_a_gateway_in_time_and_cleanly(spawn_gateway: Any) -> None:
    """It tells its clients, ends with status 0, and logs no error."""
    gateway = await spawn_gateway()
    clients = [await gateway.agent(f"a{number}") for number in range(5)]
    gateway.process.send(signal.SIGTERM)
    for client in clients:
        assert (await client.closed())[0] == 1012
    assert await asyncio.to_thread(gateway.process.wait_stopped, PATIENCE_SECONDS)
    assert gateway.process.exit_status() == 0
    levels = {record["level"] for record in gateway.log}
    assert levels <= {"INFO", "WARNING"}, gateway.log
    assert [record["event"] for record in gateway.log][-1] == "service_stopped"


async def test_nothing_secret_is_logged(spawn_gateway: Any) -> None:
    """Neither tickets, signatures, tokens nor what agents say reach the log, whatever goes wrong."""
    gateway = await spawn_gateway()
    alice = await gateway.open("/ws/agent/alice?challenge=t1&signature=good")
    await alice.expect("welcome")
    for path in (
        "/ws/agent/alice?challenge=t1&signature=SECRET-SIGNATURE",
        "/ws/agent/alice?ticket=SECRET-TICKET",
        "/ws/dashboard?token=SECRET-TOKEN",
    ):
        client = await gateway.open(path)
        await client.closed()
    await alice.send(type="publish", channel="room", data="SECRET-DATA", id=1)
    await alice.expect("published")
    await alice.socket.send('{"type":"SECRET-TYPE"}')
    await alice.expect("error")
    gateway.process.ask_to_stop()
    await asyncio.to_thread(gateway.process.wait_stopped, PATIENCE_SECONDS)
    assert "SECRET" not in gateway.process.spec.log.read_text()


async def test_a_gateway_that_waits_for_nats_can_be_stopped(tmp_path: Path) -> None:
    """Told to stop before it ever reached NATS it ends at once, cleanly."""
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "NATS_URL": f"nats://127.0.0.1:{free_port()}",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "artcafe_gateway", env=env, stderr=subprocess.PIPE, cwd=tmp_path
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while b"nats_error" not in await process.stderr.readline():
                continue
            process.send_signal(signal.SIGTERM)
            await process.stderr.read()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"GATEWAY_WORKRES": "2"}, "GATEWAY_WORKRES is not a setting; did you mean GATEWAY_WORKERS?"),
        ({"GATEWAY_WS_PORT": "x"}, "GATEWAY_WS_PORT is not valid"),
        ({"NATS_URL": ""}, "NATS_URL is not set"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(settings: dict[str, str], named: str) -> None:
    """The line names the variable."""
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "NATS_URL": "nats://127.0.0.1:1",
        **settings,
    }
    done = subprocess.run(
        [sys.executable, "-m", "artcafe_gateway", "--check-config"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert named in line
