"""The whole stack with its services: the demo, crashes of everything, and what is found again afterwards."""

import json
import os
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from artcafe_devstack.devstack import DevStack


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Name the folder of the stack that this module's tests share, one after the other."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def stack(folder: Path) -> Iterator[DevStack]:
    """Run everything."""
    with DevStack(folder) as running:
        yield running
    assert running.forced == []


def _ask(stack: DevStack, path: str, body: Any = None, token: str = "") -> Any:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(
        urllib.request.Request(stack.base_url + path, data, headers), timeout=60
    ) as answer:
        return json.load(answer)


def _token(stack: DevStack) -> str:
    demo = stack.demo
    login = {"email": demo["email"], "password": demo["password"]}
    return str(_ask(stack, "/api/v1/auth/login", login)["access_token"])


def _eventually(check: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if check():
                return
        except (OSError, urllib.error.HTTPError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_fresh_stack_is_healthy_and_has_its_demo(stack: DevStack) -> None:
    """Sign-in works with what demo.json says, and both agents are registered with their keys."""
    assert _ask(stack, "/health")["status"] == "up"
    agents = _ask(stack, "/api/v1/agents", token=_token(stack))["agents"]
    assert {agent["agent_id"] for agent in agents} == {agent["agent_id"] for agent in stack.demo["agents"]}
    for agent in stack.demo["agents"]:
        key = Path(agent["private_key_path"])
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert key.read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----")


def test_nothing_that_it_writes_is_for_others(stack: DevStack, folder: Path) -> None:
    """Logs, journals and append-only files are readable by the owner only, wherever the folder is."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} >= {"logs", "journal", "valkey"}
    assert [path for path in files if path.stat().st_mode & 0o077] == []


def test_others_on_this_machine_get_nothing_out_of_the_emulator(stack: DevStack) -> None:
    """Neither without credentials nor with those that used to be enough; its health is for everyone."""
    url = stack.urls["aws"]["http"]
    with urllib.request.urlopen(f"{url}/_ministack/health", timeout=60) as answer:
        assert answer.status == 200
    for key in (None, "000000000000", "rights.auth.tables", "rights.auth.tables.", "test"):
        headers = {"X-Amz-Target": "DynamoDB_20120810.Scan", "Content-Type": "application/x-amz-json-1.0"}
        if key is not None:
            scope = f"{key}/20300101/us-east-1/dynamodb/aws4_request"
            headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
        asked = urllib.request.Request(url, b'{"TableName":"artcafe-accounts"}', headers)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(asked, timeout=60)
        refused.value.close()
        assert refused.value.code == 403


def test_no_service_asks_nats_for_what_it_may_not(stack: DevStack) -> None:
    """The permissions of the users fit what the services do."""
    assert "Violation" not in stack.log("nats").read_text()


@pytest.mark.usefixtures("one_day")
def test_the_demo_shows_what_it_promises(stack: DevStack, folder: Path) -> None:
    """Two agents on two gateways, one killed and seen away, every message counted; then both have left."""
    done = subprocess.run(
        [sys.executable, "-m", "artcafe_devstack.demo", "--state", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "connected to gateway-1" in done.stdout
    assert "connected to gateway-2" in done.stdout
    assert "is seen suspect" in done.stdout or "is seen offline" in done.stdout
    assert "Published: 10 messages. Counted by metering: 10." in done.stdout

    def are_offline() -> bool:
        agents = _ask(stack, "/api/v1/agents", token=_token(stack))["agents"]
        return {agent["status"] for agent in agents} == {"offline"}

    _eventually(are_offline)


def test_the_demo_says_when_nothing_runs(tmp_path: Path) -> None:
    """Without a stack there is one clear line."""
    done = subprocess.run(
        [sys.executable, "-m", "artcafe_devstack.demo", "--state", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == f"demo: no stack is running in {tmp_path}: start one with `make run`\n"


@pytest.mark.parametrize(
    "name", ["auth", "registry", "metering", "gateway-1", "nats", "valkey", "aws", "edge"]
)
def test_each_process_comes_back_after_a_crash(stack: DevStack, name: str) -> None:
    """SIGKILL of any one process, and the suite is healthy again by itself."""
    before = stack.pids[name]
    stack.kill(name)
    stack.wait_ready(name)
    assert stack.pids[name] != before
    _eventually(lambda: _ask(stack, "/health")["status"] == "up")
    _eventually(lambda: stack.demo["pids"] == stack.pids)
    _eventually(lambda: bool(_ask(stack, "/api/v1/agents", token=_token(stack))["agents"]))


def test_sigkill_of_everything_loses_no_acknowledged_write(stack: DevStack, folder: Path) -> None:
    """All agents and counts are there after all processes crashed at once, and the start is quick."""
    token = _token(stack)
    for number in range(20):
        _ask(stack, "/api/v1/agents", {"agent_id": f"survivor-{number}", "name": "x"}, token)
    for pid in stack.pids.values():
        os.kill(pid, 9)
    stack.close()
    began = time.monotonic()
    stack.start()
    assert time.monotonic() - began < 60
    agents = _ask(stack, "/api/v1/agents?limit=100", token=_token(stack))["agents"]
    assert {f"survivor-{number}" for number in range(20)} <= {agent["agent_id"] for agent in agents}
    # Those of the demo, which may have run on the last day of a month.
    usage = _ask(stack, "/api/v1/usage/summary", token=_token(stack))["last_30_days"]
    assert usage["messages"] == 10
    assert "replay:" not in stack.log("aws").read_text()


def test_a_removed_key_is_made_anew(stack: DevStack) -> None:
    """Whoever loses the demo agents' keys gets new ones at the next start, and they are accepted."""
    key = Path(stack.demo["agents"][1]["private_key_path"])
    old = key.read_text()
    stack.close()
    key.unlink()
    stack.start()
    assert key.read_text() != old
    agent = _ask(stack, f"/api/v1/agents/{key.name}", token=_token(stack))
    assert len(agent.get("agent", agent)["keys"]) == 2


def test_settings_reach_one_process_or_all(tmp_path: Path) -> None:
    """A benchmark may set what it needs for one replica, one service or everything."""
    env = {"gateway-2": {"GATEWAY_MAX_MESSAGE_BYTES": "4096"}, "*": {"LOG_LEVEL": "DEBUG"}}
    with DevStack(tmp_path, env=env, demo=False, services={"gateway"}) as running:
        pids = running.pids
        environments = {
            name: Path(f"/proc/{pids[name]}/environ").read_bytes().split(b"\0")
            for name in ("gateway-1", "gateway-2")
        }
    assert b"GATEWAY_MAX_MESSAGE_BYTES=4096" in environments["gateway-2"]
    assert b"GATEWAY_MAX_MESSAGE_BYTES=4096" not in environments["gateway-1"]
    assert all(b"LOG_LEVEL=DEBUG" in environment for environment in environments.values())
