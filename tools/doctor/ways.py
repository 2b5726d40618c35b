"""The ways to a deployment: the embedded stack, Docker Compose, Kubernetes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

# A service's name in containers, and that of its program.
MODULES = {
    "auth": "artcafe_auth",
    "registry": "artcafe_registry",
    "gateway-ws": "artcafe_gateway",
    "metering": "artcafe_metering",
}
COMMAND_SECONDS = 90
PAGE_SECONDS = 10
_MONITOR = "http://127.0.0.1:8222"


class WayError(Exception):
    """The deployment cannot be looked at in this way; the text says why."""


class Way(Protocol):
    """Asks a deployment from where its parts run; every method may raise `WayError`."""

    edge: str | None

    def replicas(self, service: str) -> list[str]:
        """Return the names of what runs of a service, also of ``nats``."""
        ...

    def absent(self, service: str) -> list[str]:
        """Return what should run of a service and does not, beside others that may; each with the reason."""
        ...

    def declared(self, service: str) -> tuple[int, str] | None:
        """Return how many replicas are to run, and where that is set; None where it is not a fixed number."""
        ...

    def examine(self, service: str, replica: str) -> str:
        """Return what a service's own doctor prints."""
        ...

    def nats_page(self, server: str, path: str) -> Any:
        """Return a page of a NATS server's monitoring."""
        ...

    def start(self, service: str) -> str:
        """Return how a service is started, for a cure."""
        ...

    def wake(self, service: str, replica: str) -> str:
        """Return what is done about a replica that runs and does not answer, for a cure."""
        ...

    def more_files(self) -> str:
        """Return how processes get to open more files, for a cure."""
        ...


class Embedded:
    """The stack of ``make run``, by its state folder."""

    def __init__(self, folder: Path) -> None:
        # Installed with the checkout; the other ways do without.
        from artcafe_devstack.process import StackError
        from artcafe_devstack.stack import Stack, StackOptions

        self._stack = Stack(StackOptions(folder), lambda _: None)
        state = self._stack.state
        try:
            demo = state.running()
        except StackError as error:
            raise WayError(str(error)) from None
        self._stack.ports, self._stack.secrets = state.read("ports.json"), state.read("secrets.json")
        self._pids: dict[str, int] = demo["pids"]
        self.edge: str | None = demo["base_url"]
        self._stack.ports["edge"] = int(demo["base_url"].rpartition(":")[2])

    def replicas(self, service: str) -> list[str]:
        """Return the names of the processes."""
        own = MODULES.get(service, service).removeprefix("artcafe_")
        # Gateways are numbered.
        return [name for name in sorted(self._pids) if name == own or name.startswith(f"{own}-")]

    def absent(self, service: str) -> list[str]:
        """Return nothing: those that have ended are replicas still, and do not answer."""
        return []

    def declared(self, service: str) -> tuple[int, str] | None:
        """The stack starts again what has ended, so it is always as many."""
        return None

    def examine(self, service: str, replica: str) -> str:
        """Run the doctor with the settings of the process."""
        from artcafe_devstack.process import inherited_environment

        module = MODULES[service]
        environment = self._stack.environment(replica, module.removeprefix("artcafe_"))
        return _run([sys.executable, "-m", module, "doctor", "--json"], inherited_environment() | environment)

    def nats_page(self, server: str, path: str) -> Any:
        """Return a page from the port that only this stack has."""
        return json.loads(fetch(f"http://127.0.0.1:{self._stack.ports['nats-monitor']}{path}"))

    def start(self, service: str) -> str:
        """The stack starts what has ended by itself."""
        return f"see {self._stack.state.logs}; the stack starts again what has ended"

    def wake(self, service: str, replica: str) -> str:
        """The stack does not start again what is frozen: it has not ended."""
        from artcafe_devstack.process import start_time_of

        pid, started = (self._stack.state.read("processes.json") or {}).get(replica, (0, None))
        if not started or start_time_of(pid) != started:
            return self.start(service)
        log = self._stack.state.logs / f"{replica}.log"
        return f"process {pid} runs: `kill -KILL {pid}`, and the stack starts it again; its log is {log}"

    def more_files(self) -> str:
        """What the launcher may, its children may."""
        return (
            "raise `ulimit -Hn` of the shell before `make run`, or have fewer connections:"
            ' make run ARGS="--set GATEWAY_MAX_CONNECTIONS=10000"'
        )


class Compose:
    """What ``docker compose`` runs, by the files and the project that it finds."""

    def __init__(self) -> None:
        listed = _run(["docker", "compose", "ps", "--all", "--format", "json"]).strip()
        # One array before Compose 2.21, an object a line since.
        rows = json.loads(listed) if listed.startswith("[") else [json.loads(r) for r in listed.splitlines()]
        # Of `docker compose run`: nobody expects those to go on.
        rows = [row for row in rows if "com.docker.compose.oneoff=True" not in (row.get("Labels") or "")]
        if all(row["State"] != "running" for row in rows):
            raise WayError("docker compose runs nothing here: start it with `make up`")
        self._rows: list[dict[str, Any]] = rows
        self._services: dict[str, Any] | None = None
        self.edge: str | None = None
        for row in rows:
            ports = {p["TargetPort"]: p for p in row.get("Publishers") or [] if p.get("PublishedPort")}
            for inside, scheme in ((8443, "https"), (8080, "http")):
                if row["Service"] == "edge" and inside in ports and self.edge is None:
                    host = ports[inside]["URL"]
                    host = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host
                    self.edge = f"{scheme}://{host}:{ports[inside]['PublishedPort']}"

    def replicas(self, service: str) -> list[str]:
        """Return the names of the containers that run."""
        return [r["Name"] for r in self._rows if r["Service"] == service and r["State"] == "running"]

    def absent(self, service: str) -> list[str]:
        """Return the containers that have ended, start again and again, or are frozen."""
        return [
            f"{r['Name']} is {r['State']}" + (f" with {r['ExitCode']}" if r.get("ExitCode") else "")
            for r in self._rows
            if r["Service"] == service and r["State"] != "running"
        ]

    def declared(self, service: str) -> tuple[int, str] | None:
        """Return what the files say, to which each `up` goes back."""
        if self._services is None:
            self._services = json.loads(_run(["docker", "compose", "config", "--format", "json"]))["services"]
        found = self._services.get(service, {})
        own = MODULES[service].removeprefix("artcafe_")
        return int(found.get("scale", 1)), f"{own.upper()}_REPLICAS in .env"

    def examine(self, service: str, replica: str) -> str:
        """Run the doctor in the container."""
        return _run(["docker", "exec", replica, "python", "-m", MODULES[service], "doctor", "--json"])

    def nats_page(self, server: str, path: str) -> Any:
        """Return a page from the loopback of the container, where alone it is."""
        return json.loads(_run(["docker", "exec", server, "wget", "-q", "-O", "-", f"{_MONITOR}{path}"]))

    def start(self, service: str) -> str:
        """Return the command."""
        return f"docker compose up --detach --wait {service}; docker compose logs --tail 50 {service}"

    def wake(self, service: str, replica: str) -> str:
        """Return the commands."""
        return f"docker logs --tail 50 {replica}; docker restart {replica}"

    def more_files(self) -> str:
        """Either may bound the other."""
        return "raise the limit (ulimits of compose.yaml, LimitNOFILE of the engine)"


class Kubernetes:
    """What runs in a namespace, by ``kubectl`` and its current context."""

    def __init__(self, namespace: str, edge: str | None) -> None:
        self._kubectl = ["kubectl", "--namespace", namespace]
        self.edge = edge
        listed = json.loads(
            _run([*self._kubectl, "get", "pods,deployments,statefulsets", "--output", "json"])
        )["items"]
        # What has ended is replaced by another pod, or is a job's.
        self._pods = [
            item
            for item in listed
            if item["kind"] == "Pod" and item["status"].get("phase") not in ("Succeeded", "Failed")
        ]
        self._workloads = [item for item in listed if item["kind"] != "Pod"]
        if not self._pods:
            raise WayError(f"there are no pods in the namespace {namespace}")

    def replicas(self, service: str) -> list[str]:
        """Return the names of the pods that run and are not ending."""
        return [pod["metadata"]["name"] for pod in self._staying(service) if _hindrance(pod) is None]

    def absent(self, service: str) -> list[str]:
        """Return the pods that do not run, and how many there should be where fewer are ready."""
        pods = [(pod["metadata"]["name"], _hindrance(pod)) for pod in self._staying(service)]
        found = [f"{name}: {hindrance}" for name, hindrance in pods if hindrance is not None]
        for workload in self._workloads:
            wanted, ready = workload["spec"].get("replicas", 1), workload["status"].get("readyReplicas", 0)
            if _service(workload) == service and ready < wanted:
                found.insert(0, f"{ready} of {wanted} are ready")
        return found

    def _staying(self, service: str) -> list[dict[str, Any]]:
        return [
            pod
            for pod in self._pods
            if _service(pod) == service and "deletionTimestamp" not in pod["metadata"]
        ]

    def declared(self, service: str) -> tuple[int, str] | None:
        """Autoscalers decide."""
        return None

    def examine(self, service: str, replica: str) -> str:
        """Run the doctor in the pod."""
        command = ["python", "-m", MODULES[service], "doctor", "--json"]
        return _run([*self._kubectl, "exec", replica, "--container", service, "--", *command])

    def nats_page(self, server: str, path: str) -> Any:
        """Return a page from the loopback of the pod, where alone it is."""
        command = ["wget", "-q", "-O", "-", f"{_MONITOR}{path}"]
        return json.loads(_run([*self._kubectl, "exec", server, "--container", "nats", "--", *command]))

    def start(self, service: str) -> str:
        """Return the command."""
        return f"{' '.join(self._kubectl)} describe pods --selector app.kubernetes.io/name={service}"

    def wake(self, service: str, replica: str) -> str:
        """Return the commands; the probes do the same after a while."""
        kubectl = " ".join(self._kubectl)
        return f"{kubectl} logs --tail 50 {replica}; {kubectl} delete pod {replica}"

    def more_files(self) -> str:
        """Pods cannot say it themselves."""
        return "raise LimitNOFILE of the nodes' container engine"


def _service(item: dict[str, Any]) -> str:
    """Return the service that a pod or a workload is of."""
    return str(item["metadata"].get("labels", {}).get("app.kubernetes.io/name", ""))


def _hindrance(pod: dict[str, Any]) -> str | None:
    """Return why a pod does not run, e.g. ``ImagePullBackOff``; None where all of its containers do."""
    status = pod["status"]
    states = [each.get("state", {}) for each in status.get("containerStatuses", [])]
    # Those come first, and the others wait for them.
    for state in [each.get("state", {}) for each in status.get("initContainerStatuses", [])] + states:
        if "waiting" in state:
            return str(state["waiting"].get("reason", "waiting"))
    if status["phase"] == "Running":
        ended = [state["terminated"] for state in states if "terminated" in state]
        return f"ended with {ended[0].get('exitCode')}" if ended else None
    for condition in status.get("conditions", []):
        if condition["status"] == "False" and condition.get("reason"):
            return f"{status['phase']}, {condition['reason']}"
    return str(status["phase"])


def fetch(url: str, **options: Any) -> bytes:
    """Return what is at an address."""
    with urllib.request.urlopen(url, timeout=PAGE_SECONDS, **options) as answer:
        body: bytes = answer.read()
        return body


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """Return what a command prints; a status of 1 is a doctor's who has found a fault, and has printed it."""
    try:
        done = subprocess.run(
            command,
            env=environment or dict(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise WayError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise WayError(f"{command[0]} does not answer within {COMMAND_SECONDS} seconds") from None
    if done.returncode and not (done.returncode == 1 and done.stdout.startswith("{")):
        last = (done.stderr or done.stdout).strip().splitlines()
        raise WayError(
            f"{command[0]} ended with {done.returncode}: {last[-1] if last else 'no reason given'}"
        )
    return done.stdout
