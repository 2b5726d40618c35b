"""Pods of the Kubernetes manifests as containers of this engine, as near as it gets.

User, groups, read-only root, dropped capabilities, memory, environment, files from ConfigMaps and Secrets
with their modes, folders, command and probes are the manifests'. Names are the network's, and nobody
schedules pods, starts them again or closes the network between them.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..kubernetes.manifests import Manifests, Object, Pod
from .deployment import Deployment

DOMAIN = "artcafe.svc.cluster.local"
READY_SECONDS = 240
_UNITS = {"Mi": 1024**2, "Gi": 1024**3}


class Pods:
    """Pods on a network of their own."""

    def __init__(
        self,
        deployment: Deployment,
        secrets: Mapping[str, Mapping[str, str]],
        folder: Path,
        images: Mapping[str, str],
    ) -> None:
        self._deployment = deployment
        self._secrets = secrets
        self._folder = folder
        self._images = images
        self.network = f"{deployment.project}-pods"
        self._started: dict[str, tuple[Pod, Object]] = {}

    def __enter__(self) -> Pods:
        self._deployment.docker("network", "create", self.network)
        return self

    def __exit__(self, *_: object) -> None:
        if self._started:
            self._deployment.docker("rm", "--force", "--volumes", *self._started)
        self._deployment.docker("network", "rm", self.network)

    def start(
        self, manifests: Manifests, name: str, number: int = 0, environment: Mapping[str, str] | None = None
    ) -> str:
        """Start a pod of one container; return the name by which the engine knows it."""
        pod = manifests.pod(name)
        (container,) = pod.containers
        known = f"{self._deployment.project}-pod-{name}-{number}"
        names = [
            service["metadata"]["name"]
            for service in manifests.of("Service")
            if service["spec"]["selector"].items() <= pod.labels.items()
        ]
        if pod.kind == "StatefulSet":
            names += [f"{name}-{number}.{service}" for service in names]
        aliases = [f"--network-alias={each}{end}" for each in names for end in ("", f".{DOMAIN}")]
        self._started[known] = (pod, container)
        hostname = f"{name}-{number}"
        extra = dict(environment or {})
        if any(each["name"] == "NATS_SERVER_NAME" for each in container.get("env", [])):
            extra["NATS_SERVER_NAME"] = hostname
        options = self._options(manifests, pod, container, known, extra)
        self._deployment.docker("run", "--detach", f"--hostname={hostname}", *aliases, *options)
        return known

    def complete(self, manifests: Manifests, name: str, environment: Mapping[str, str]) -> None:
        """Run the containers of a Job one after the other, each to its end."""
        pod = manifests.pod(name)
        for container in pod.containers:
            known = f"{self._deployment.project}-pod-{name}-{container['name']}"
            options = self._options(manifests, pod, container, known, environment)
            self._deployment.docker("run", "--rm", *options, seconds=300)

    def wait(self, known: str) -> None:
        """Wait until a pod lives and may have work; the kubelet does not believe one answer alone either."""
        deadline = time.monotonic() + READY_SECONDS
        while not all(self.probe(known, kind) for kind in ("startup", "readiness", "liveness")):
            if time.monotonic() > deadline:
                logs = self._deployment.docker("logs", "--tail", "20", known)
                raise AssertionError(f"{known} is not ready: {logs}")
            time.sleep(0.3)

    def probe(self, known: str, kind: str) -> bool:
        """Ask what the kubelet asks."""
        _, container = self._started[known]
        probe = container[f"{kind}Probe"]
        if "exec" in probe:
            return self.execute(known, *probe["exec"]["command"])[0] == 0
        (port,) = [p["containerPort"] for p in container["ports"] if p["name"] == probe["httpGet"]["port"]]
        connection = http.client.HTTPConnection(
            self.address(known), port, timeout=probe.get("timeoutSeconds", 1)
        )
        try:
            connection.request("GET", probe["httpGet"]["path"])
            return 200 <= connection.getresponse().status < 400
        except OSError:
            return False
        finally:
            connection.close()

    def execute(self, known: str, *command: str) -> tuple[int, str]:
        """Run a command in a pod; return its status and what it printed."""
        return self._deployment.execute(known, *command)

    def address(self, known: str) -> str:
        """Return where a pod is."""
        networks = self.inspect(known)["NetworkSettings"]["Networks"]
        found: str = networks[self.network]["IPAddress"]
        return found

    def inspect(self, known: str) -> dict[str, Any]:
        """Return what the engine tells of a pod."""
        found: dict[str, Any] = json.loads(self._deployment.docker("inspect", known))[0]
        return found

    def end(self, known: str) -> int:
        """End a pod as the kubelet does, in its grace period; return its status, 137 where it was killed."""
        pod, container = self._started[known]
        before = container.get("lifecycle", {}).get("preStop", {})
        if "exec" in before:
            status, said = self.execute(known, *before["exec"]["command"])
            assert status == 0, said
        grace = pod.spec["terminationGracePeriodSeconds"]
        self._deployment.docker("stop", "--time", str(grace), known, seconds=grace + 30)
        found: int = self.inspect(known)["State"]["ExitCode"]
        return found

    def _options(
        self,
        manifests: Manifests,
        pod: Pod,
        container: Object,
        known: str,
        environment: Mapping[str, str],
    ) -> list[str]:
        security = pod.spec["securityContext"]
        group = security.get("fsGroup", security["runAsGroup"])
        options = [
            *("--name", known, "--network", self.network, f"--dns-search={DOMAIN}"),
            *("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges:true"),
            f"--user={security['runAsUser']}:{security['runAsGroup']}",
            f"--group-add={group}",
            f"--memory={_bytes(container['resources']['limits']['memory'])}",
        ]
        for name, value in {**manifests.environment(pod, container), **environment}.items():
            options += ["--env", f"{name}={value}"]
        files = manifests.files(pod, container, self._secrets)
        for mount in container.get("volumeMounts", []):
            options.append(self._mount(pod, mount, files, known, group))
        words = [*container.get("command", []), *container.get("args", [])]
        if "command" in container:
            options.append(f"--entrypoint={words.pop(0)}")
        return [*options, self._images.get(container["image"], container["image"]), *words]

    def _mount(self, pod: Pod, mount: Object, files: Mapping[str, str], known: str, group: int) -> str:
        path = mount["mountPath"]
        volume: Object = next((v for v in pod.spec.get("volumes", []) if v["name"] == mount["name"]), {})
        place = self._folder / known / mount["name"]
        place.mkdir(parents=True, exist_ok=True)
        if not volume or "emptyDir" in volume:
            # A claim or a folder of the pod's own, handed to its group.
            os.chown(place, 0, group)
            place.chmod(0o2775 if not volume else 0o2777)
            return f"--volume={place}:{path}"
        place.chmod(0o755)
        mode = 0o440 if "secret" in volume or "projected" in volume else 0o644
        for name, text in files.items():
            if name == path or name.startswith(f"{path}/"):
                file = place / Path(name).name
                if not file.exists():
                    file.write_text(text)
                    os.chown(file, 0, group)
                    file.chmod(mode)
        source = place / mount["subPath"] if "subPath" in mount else place
        return f"--volume={source}:{path}:ro"


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]
