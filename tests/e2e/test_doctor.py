"""The doctor on a whole stack: it finds nothing where all is well, and each thing that is broken."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aioboto3
import pytest
from redis import Redis

from artcafe_devstack.devstack import DevStack
from artcafe_devstack.repository import repository_root
from artcafe_devstack.state import StateFolder

pytestmark = pytest.mark.embedded

SERVICES = ("auth", "registry", "gateway-ws", "metering")
DOCTOR_SECONDS = 180


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """A stack of its own: what is broken in it disturbs nobody."""
    with DevStack(tmp_path_factory.mktemp("patient"), gateways=2) as running:
        yield running


class Seen:
    """What the doctor has said."""

    def __init__(self, status: int, findings: list[dict[str, str]]) -> None:
        self.status = status
        self.findings = findings

    def about(self, where: str, check: str, status: str) -> list[str]:
        """Return the details of findings, each of which says what to do where it is none that is ok."""
        found = [f for f in self.findings if (f["where"], f["check"], f["status"]) == (where, check, status)]
        assert all(f["cure"] for f in found) or status == "ok"
        return [f["detail"] for f in found]

    def faults(self) -> list[str]:
        """Return what is at fault, in short."""
        return [f"{f['where']} {f['check']}: {f['detail']}" for f in self.findings if f["status"] == "fail"]


def _folder(stack: DevStack) -> str:
    return str(stack.log("x").parents[1])


def _doctor(*arguments: str, env: dict[str, str] | None = None) -> Seen:
    """Run the doctor as an operator does and return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "doctor", "--json", *arguments],
        env=os.environ | {"PYTHONPATH": str(repository_root() / "tools")} | (env or {}),
        capture_output=True,
        text=True,
        timeout=DOCTOR_SECONDS,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return Seen(done.returncode, json.loads(done.stdout)["findings"])


def _healthy(seen: Seen) -> None:
    assert (seen.status, seen.faults()) == (0, [])
    for service in ("auth", "registry", "gateway-1", "gateway-2", "metering"):
        assert seen.about(service, "service", "ok"), service
        assert seen.about(service, "tables", "ok"), service
    assert seen.about("nats", "sync", "ok") == ["writes to disk before it acknowledges"]
    assert seen.about("metering", "valkey", "ok") and seen.about("metering", "backlog", "ok")
    assert seen.about("all", "versions", "ok") and seen.about("all", "clocks", "ok")
    assert seen.about("edge", "health", "ok")


def test_a_healthy_stack_has_no_faults(patient: DevStack) -> None:
    """Everything is looked at in every replica, and nothing is at fault."""
    _healthy(_doctor("--embedded", _folder(patient)))


def test_text_has_a_line_for_each_check_and_the_sum(patient: DevStack) -> None:
    """Without --json there is a line each, for a person."""
    done = subprocess.run(
        ["make", "--no-print-directory", "doctor"],
        cwd=repository_root(),
        env=os.environ | {"ARTCAFE_STATE": _folder(patient)},
        capture_output=True,
        text=True,
        timeout=DOCTOR_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ok    metering        valkey" in done.stdout
    assert done.stdout.rstrip().endswith("0 at fault")


def test_valkey_without_its_append_only_file_is_found(patient: DevStack) -> None:
    """Somebody has switched off what keeps usage through a crash, and the order to forget when full is on."""
    with Redis.from_url(patient.urls["valkey"]["redis"]) as valkey:
        valkey.config_set("appendonly", "no")
        valkey.config_set("maxmemory-policy", "allkeys-lru")
        try:
            seen = _doctor("--embedded", _folder(patient))
        finally:
            valkey.config_set("appendonly", "yes")
            valkey.config_set("maxmemory-policy", "noeviction")
    assert seen.status == 1
    keeps_nothing, forgets = seen.about("metering", "valkey", "fail")
    assert "keeps no append-only file" in keeps_nothing and "allkeys-lru" in forgets


async def test_tables_that_somebody_has_changed_are_found(patient: DevStack) -> None:
    """A missing index is a fault; recovery that is off is to be looked at; both are told with their cure."""
    environment = patient.environment("gateway-1")
    client: Any = aioboto3.Session().client(
        "dynamodb",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    connections = "artcafe-websocket-connections"
    index = {
        "IndexName": "by-server",
        "KeySchema": [{"AttributeName": "server", "KeyType": "HASH"}],
        "Projection": {"ProjectionType": "ALL"},
    }
    recovery = {"PointInTimeRecoveryEnabled": False}
    async with client as dynamodb:
        await dynamodb.update_continuous_backups(
            TableName="artcafe-agents", PointInTimeRecoverySpecification=recovery
        )
        await dynamodb.update_table(
            TableName=connections, GlobalSecondaryIndexUpdates=[{"Delete": {"IndexName": "by-server"}}]
        )
        try:
            seen = await asyncio.to_thread(_doctor, "--embedded", _folder(patient))
        finally:
            await dynamodb.update_table(
                TableName=connections,
                AttributeDefinitions=[{"AttributeName": "server", "AttributeType": "S"}],
                GlobalSecondaryIndexUpdates=[{"Create": index}],
            )
            recovery["PointInTimeRecoveryEnabled"] = True
            await dynamodb.update_continuous_backups(
                TableName="artcafe-agents", PointInTimeRecoverySpecification=recovery
            )
    assert seen.about("gateway-1", "tables", "fail") == [f"{connections}: has no index by-server"]
    assert seen.about("registry", "tables", "warn") == ["artcafe-agents: has no point-in-time recovery"]


def test_a_service_that_is_down_and_nats_that_is_frozen_are_found(patient: DevStack) -> None:
    """What does not run is named, by the edge too; what does not answer is not waited for."""
    with patient.without("registry"):
        seen = _doctor("--embedded", _folder(patient))
    assert seen.status == 1
    (silent,) = seen.about("registry", "service", "fail")
    assert "does not answer" in silent
    (health,) = seen.about("edge", "health", "fail")
    assert "registry down" in health
    assert not seen.about("auth", "nats", "fail")

    patient.freeze("nats")
    try:
        seen = _doctor("--embedded", _folder(patient))
    finally:
        patient.thaw("nats")
    assert seen.about("nats", "server", "fail")
    for service in ("auth", "registry", "gateway-1", "gateway-2", "metering"):
        assert seen.about(service, "nats", "fail"), service
    assert seen.about("metering", "valkey", "ok"), "the rest is looked at all the same"


def test_a_service_that_is_frozen_is_told_with_the_process_to_kill(patient: DevStack) -> None:
    """What has not ended is not started again by itself: the cure has its number, and helps."""
    before = patient.pids["registry"]
    patient.freeze("registry")
    try:
        seen = _doctor("--embedded", _folder(patient))
    finally:
        patient.thaw("registry")
    (cure,) = (
        f["cure"]
        for f in seen.findings
        if (f["where"], f["check"], f["status"]) == ("registry", "service", "fail")
    )
    assert f"`kill -KILL {before}`" in cure


def test_a_wrong_password_is_told_from_a_server_that_is_away(patient: DevStack) -> None:
    """After a rotation that one side has not seen, that is what the doctor of a service says."""
    for service, settings, check, words in (
        ("auth", {"NATS_PASSWORD": "wrong"}, "nats", "does not let the user auth in"),
        ("auth", {"NATS_URL": "nats://127.0.0.1:1"}, "nats", "cannot be reached"),
        ("metering", {"REDIS_URL": _wrong(patient)}, "valkey", "does not let us in"),
        ("metering", {"REDIS_URL": "redis://127.0.0.1:1/0"}, "valkey", "cannot be reached"),
        ("gateway-1", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "tables", "cannot be looked at"),
    ):
        module = "artcafe_gateway" if service == "gateway-1" else f"artcafe_{service}"
        done = subprocess.run(
            [sys.executable, "-m", module, "doctor"],
            env=os.environ | patient.environment(service) | settings,
            capture_output=True,
            text=True,
            timeout=DOCTOR_SECONDS,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"fail  {check} "))
        assert words in line
        assert "wrong" not in done.stdout.replace("wrong password", "") and "Traceback" not in done.stderr


def _wrong(stack: DevStack) -> str:
    url = stack.urls["valkey"]["redis"]
    return url.replace(stack.secrets["valkey"], "wrong")


# Stands for a cluster: each pod is a process of the stack; what is run in it has that one's settings.
KUBECTL = """#!{python}
import json, os, subprocess, sys
about = json.load(open({about!r}))
arguments = sys.argv[1:]
assert arguments[:2] == ["--namespace", "artcafe"], arguments
if arguments[2:] == ["get", "pods,deployments,statefulsets", "--output", "json"]:
    named = [{{"name": pod, "labels": {{"app.kubernetes.io/name": n}}}} for pod, n in about["pods"].items()]
    running = {{"kind": "Pod", "status": {{"phase": "Running"}}}}
    print(json.dumps({{"items": [running | {{"metadata": each}} for each in named]}}))
    sys.exit()
assert arguments[2] == "exec" and arguments[4] == "--container" and arguments[6] == "--", arguments
pod, container, command = arguments[3], arguments[5], arguments[7:]
assert about["pods"][pod] == container
if command[0] == "wget":
    import urllib.request
    url = command[-1].replace("http://127.0.0.1:8222", about["nats"])
    sys.stdout.buffer.write(urllib.request.urlopen(url, timeout=10).read())
    sys.exit()
assert command[0] == "python"
environment = {{"PATH": os.environ["PATH"], **about["settings"][pod]}}
sys.exit(subprocess.run([{python!r}, *command[1:]], env=environment).returncode)
"""


def test_a_cluster_is_asked_by_kubectl(patient: DevStack, tmp_path: Path) -> None:
    """Pods are found by their labels and looked at where they run, NATS by its loopback."""
    names = {"auth": "auth", "registry": "registry", "metering": "metering", "gateway-ws": "gateway-1"}
    monitor = json.loads((Path(_folder(patient)) / "ports.json").read_text())["nats-monitor"]
    about: dict[str, Any] = {
        "pods": {f"{name}-7d4b9-x2x": name for name in names} | {"nats-0": "nats"},
        "settings": {f"{name}-7d4b9-x2x": patient.environment(process) for name, process in names.items()},
        "nats": f"http://127.0.0.1:{monitor}",
    }
    (tmp_path / "about.json").write_text(json.dumps(about))
    stand_in = tmp_path / "kubectl"
    stand_in.write_text(KUBECTL.format(python=sys.executable, about=str(tmp_path / "about.json")))
    stand_in.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    seen = _doctor("--kubernetes", "--edge", patient.base_url, env=path)
    assert seen.faults() == [] and seen.status == 0
    for service in SERVICES:
        assert seen.about(service, "service", "ok"), service
    assert seen.about("nats", "sync", "ok")

    del about["pods"]["metering-7d4b9-x2x"]
    (tmp_path / "about.json").write_text(json.dumps(about))
    seen = _doctor("--kubernetes", "--edge", patient.base_url, env=path)
    assert seen.about("metering", "replicas", "fail") == ["none runs"]


@pytest.mark.parametrize(("killed", "words"), [(False, "no stack is running in"), (True, "is dead")])
def test_a_stack_that_does_not_run_is_told_at_once(tmp_path: Path, killed: bool, words: str) -> None:
    """Stopped or killed, with docker or without: it says that, and what to do, and looks no further."""
    state = StateFolder(tmp_path / "state")
    state.open()
    state.ports(["nats"])
    state.secrets()
    if killed:
        state.write(
            "demo.json", {"launcher_pid": os.getpid(), "pids": {"auth": 1}, "base_url": "http://[::1]:1"}
        )
        os.close(state._lock)
    else:
        state.close()
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho \"Run 'docker --help'\" >&2\nexit 125\n")
    docker.chmod(0o755)
    for arguments in ([], ["--embedded", str(state.path)]):
        done = subprocess.run(
            [sys.executable, "-m", "doctor", *arguments],
            env={
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "PYTHONPATH": str(repository_root() / "tools"),
                "ARTCAFE_STATE": str(state.path),
            },
            capture_output=True,
            text=True,
            timeout=DOCTOR_SECONDS,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert (
            words in done.stderr and "with `make run`" in done.stderr and len(done.stderr.splitlines()) == 1
        )


def test_help_is_for_a_terminal() -> None:
    """Its lines are folded, and it has no markup of documentation."""
    done = subprocess.run(
        [sys.executable, "-m", "doctor", "--help"],
        env=os.environ | {"PYTHONPATH": str(repository_root() / "tools"), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "``" not in done.stdout and max(map(len, done.stdout.splitlines())) <= 80


def test_where_nothing_runs_that_is_said(tmp_path: Path) -> None:
    """Without a stack, an engine or a cluster the status is 2, with one line."""
    nothing = {"PATH": f"{tmp_path}", "PYTHONPATH": str(repository_root() / "tools")}
    for arguments in (["--embedded", str(tmp_path)], ["--compose"], ["--kubernetes"]):
        done = subprocess.run(
            [sys.executable, "-m", "doctor", *arguments],
            env=nothing,
            capture_output=True,
            text=True,
            timeout=DOCTOR_SECONDS,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("doctor: ") and len(done.stderr.splitlines()) == 1
    assert shutil.which("openssl"), "certificates are read by openssl"
