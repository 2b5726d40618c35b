"""What an overlay builds, as values that tests can ask questions of."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from artcafe_auth.config import PREFIX as AUTH_PREFIX
from artcafe_auth.config import AuthConfig
from artcafe_common.config import SharedConfig
from artcafe_devstack.repository import repository_root
from artcafe_gateway.config import PREFIX as GATEWAY_PREFIX
from artcafe_gateway.config import GatewayConfig
from artcafe_metering.config import PREFIX as METERING_PREFIX
from artcafe_metering.config import MeteringConfig
from artcafe_registry.config import PREFIX as REGISTRY_PREFIX
from artcafe_registry.config import RegistryConfig

ROOT = repository_root()
OVERLAYS = ("local", "production")
NAME = "app.kubernetes.io/name"

# Each service with its program, its settings and their prefix.
SERVICES: dict[str, tuple[str, type[SharedConfig], str]] = {
    "auth": ("artcafe_auth", AuthConfig, AUTH_PREFIX),
    "registry": ("artcafe_registry", RegistryConfig, REGISTRY_PREFIX),
    "gateway-ws": ("artcafe_gateway", GatewayConfig, GATEWAY_PREFIX),
    "metering": ("artcafe_metering", MeteringConfig, METERING_PREFIX),
}

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """The pods of a workload: its kind and name, their labels and specification."""

    kind: str
    name: str
    labels: dict[str, str]
    annotations: dict[str, str]
    spec: Object

    @property
    def containers(self) -> list[Object]:
        """All containers, those first that run before the others."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


class Manifests:
    """The objects of an overlay."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    def of(self, kind: str) -> list[Object]:
        """Return the objects of a kind."""
        return [each for each in self.objects if each["kind"] == kind]

    def get(self, kind: str, name: str) -> Object:
        """Return one object; a ConfigMap also by the name before its hash."""
        found = [
            each
            for each in self.of(kind)
            if each["metadata"]["name"] == name
            or (kind == "ConfigMap" and each["metadata"]["name"].rpartition("-")[0] == name)
        ]
        assert len(found) == 1, f"{len(found)} of {kind} {name}"
        return found[0]

    def pods(self) -> list[Pod]:
        """Return the pods of every workload."""
        return [
            Pod(
                each["kind"],
                each["metadata"]["name"],
                each["spec"]["template"]["metadata"].get("labels", {}),
                each["spec"]["template"]["metadata"].get("annotations", {}),
                each["spec"]["template"]["spec"],
            )
            for each in self.objects
            if each["kind"] in ("Deployment", "StatefulSet", "Job", "CronJob", "DaemonSet")
        ]

    def pod(self, name: str) -> Pod:
        """Return the pods of one workload."""
        (found,) = [pod for pod in self.pods() if pod.name == name]
        return found

    def environment(self, pod: Pod, container: Object) -> dict[str, str]:
        """Return the variables that a container is started with."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= self.get("ConfigMap", source["configMapRef"]["name"])["data"]
        for variable in container.get("env", []):
            origin = variable.get("valueFrom", {})
            if "configMapKeyRef" in origin:
                reference = origin["configMapKeyRef"]
                found[variable["name"]] = self.get("ConfigMap", reference["name"])["data"][reference["key"]]
            elif "fieldRef" in origin:
                assert origin["fieldRef"]["fieldPath"] == "metadata.name"
                found[variable["name"]] = f"{pod.name}-0"
            else:
                found[variable["name"]] = variable["value"]
        return found

    def files(self, pod: Pod, container: Object, secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """Return the files that are mounted into a container from ConfigMaps and Secrets, by path."""
        found: dict[str, str] = {}
        for mount in container.get("volumeMounts", []):
            volume = _volume(pod, mount["name"])
            for path, text in self._volume_files(volume, secrets):
                if "subPath" not in mount:
                    found[f"{mount['mountPath']}/{path}"] = text
                elif path == mount["subPath"]:
                    found[mount["mountPath"]] = text
        return found

    def _volume_files(
        self, volume: Object, secrets: Mapping[str, Mapping[str, str]]
    ) -> Iterator[tuple[str, str]]:
        for source in volume.get("projected", {}).get("sources", [volume]):
            if source.get("configMap", {}).get("optional"):
                # An operator's own: at first there is none.
                continue
            if "configMap" in source:
                yield from self.get("ConfigMap", source["configMap"]["name"])["data"].items()
            elif "secret" in source:
                reference = source["secret"]
                data = secrets[reference.get("name") or reference["secretName"]]
                for item in reference["items"]:
                    yield item["path"], data[item["key"]]


def _volume(pod: Pod, name: str) -> Object:
    volumes = [each for each in pod.spec.get("volumes", []) if each["name"] == name]
    # The claims of a StatefulSet are not among the volumes.
    return volumes[0] if volumes else {}


def kubectl() -> str | None:
    """Return kubectl: the one on the path, or the one that the container kit has fetched."""
    kit = Path(os.environ.get("CONTAINER_KIT", Path.home() / ".cache" / "container-kit")) / "bin" / "kubectl"
    return shutil.which("kubectl") or (str(kit) if kit.is_file() else None)


def build(program: str, folder: str) -> Manifests:
    """Build a folder of kustomize."""
    done = subprocess.run(
        [program, "kustomize", folder], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return Manifests(list(yaml.safe_load_all(done.stdout)))


def make_secrets(folder: Path) -> dict[str, dict[str, str]]:
    """Run the script that makes the Secrets and return what is in them."""
    done = subprocess.run(
        ["sh", str(ROOT / "k8s" / "make-secrets.sh"), str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return {
        each["metadata"]["name"]: {
            key: base64.b64decode(value).decode() for key, value in each["data"].items()
        }
        for each in yaml.safe_load_all(done.stdout)
        if each is not None
    }
