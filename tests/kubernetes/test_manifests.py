"""What must hold for every object, whatever it is for."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import msgspec
import pytest
import yaml

from .ending import ending_seconds
from .manifests import NAME, OVERLAYS, ROOT, SERVICES, Manifests, Pod, build

# The stand-in on machines without a registry has no other tag; it is for one machine only.
_MOVING = {"ministackorg/ministack:latest"}


def test_every_image_has_a_tag_that_stays(manifests: Manifests) -> None:
    """A pod that starts tomorrow runs what the one of today runs."""
    for pod in manifests.pods():
        for container in pod.containers:
            image = container["image"]
            assert image in _MOVING or re.fullmatch(r"[a-z0-9./-]+:\d[a-z0-9.-]*", image), image


def test_every_pod_is_within_the_restricted_profile(manifests: Manifests) -> None:
    """The namespace lets in nothing else, and no pod asks for more."""
    labels = manifests.get("Namespace", "artcafe")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in manifests.pods():
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] is True and security["runAsUser"] > 0, pod.name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, pod.name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys(), pod.name
        allowed = {"name", "configMap", "secret", "projected", "emptyDir", "ephemeral"}
        assert all(volume.keys() <= allowed for volume in pod.spec.get("volumes", [])), pod.name
        for container in pod.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, (pod.name, container["name"])


def test_no_pod_may_ask_the_cluster_for_anything(manifests: Manifests) -> None:
    """No token is mounted, no role is given, and no service's address is put into the environment."""
    assert not [each for each in manifests.objects if each["kind"].endswith(("Role", "RoleBinding"))]
    for pod in manifests.pods():
        assert pod.spec["automountServiceAccountToken"] is False, pod.name
        assert pod.spec["enableServiceLinks"] is False, pod.name
    accounts = [each["metadata"]["name"] for each in manifests.of("ServiceAccount")]
    named = [pod.spec["serviceAccountName"] for pod in manifests.pods() if pod.name != "ministack"]
    assert sorted(named) == sorted(accounts)


def test_every_container_says_what_it_takes(manifests: Manifests) -> None:
    """A machine is chosen by what a pod needs, and none takes all the memory."""
    for pod in manifests.pods():
        for container in pod.containers:
            resources = container["resources"]
            assert resources["requests"].keys() == {"cpu", "memory"}, pod.name
            assert "memory" in resources["limits"], pod.name
        for volume in pod.spec.get("volumes", []):
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], (pod.name, volume)


def test_secrets_are_named_and_never_written(
    manifests: Manifests, secrets: dict[str, dict[str, str]], overlay: str
) -> None:
    """What is secret is a file from a Secret that somebody else makes; no manifest holds one or a default."""
    assert not manifests.of("Secret")
    for pod in manifests.pods():
        for container in pod.containers:
            environment = manifests.environment(pod, container)
            spoken = [name for name in environment if re.search("PASSWORD|SECRET|_KEY|TOKEN|REDIS_URL", name)]
            # A folder of public halves.
            public = {"METERING_RETIRED_KEYS"}
            kept = [name for name in spoken if not name.endswith("_FILE") and name not in public]
            # The emulator takes any.
            emulator = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} if overlay == "local" else set()
            assert set(kept) <= emulator, (pod.name, kept)
            # Every key of a Secret that is mounted is one that the script makes.
            manifests.files(pod, container, secrets)


def test_the_secret_store_makes_the_same_secrets(program: str, secrets: dict[str, dict[str, str]]) -> None:
    """The example for External Secrets has each Secret with each key."""
    example = build(program, "k8s/examples/external-secrets")
    made = {}
    for each in example.of("ExternalSecret"):
        keys = {item["secretKey"] for item in each["spec"]["data"]}
        keys |= each["spec"]["target"].get("template", {}).get("data", {}).keys()
        made[each["spec"]["target"]["name"]] = keys
    assert made == {name: data.keys() for name, data in secrets.items()}


def test_names_meet(manifests: Manifests) -> None:
    """Services find pods and ports, pods find ConfigMaps, autoscalers and budgets find what they are for."""
    pods = manifests.pods()
    for service in manifests.of("Service"):
        selector = service["spec"]["selector"]
        chosen = [pod for pod in pods if selector.items() <= pod.labels.items()]
        assert chosen, service["metadata"]["name"]
        for pod in chosen:
            ports = {port["name"] for each in pod.containers for port in each.get("ports", [])}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    workloads = {(pod.kind, pod.name) for pod in pods}
    for scaler in manifests.of("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in workloads
    for budget in manifests.of("PodDisruptionBudget"):
        selector = budget["spec"]["selector"]["matchLabels"]
        assert [pod for pod in pods if selector.items() <= pod.labels.items()]
    for pod in pods:
        for volume in pod.spec.get("volumes", []):
            for source in volume.get("projected", {}).get("sources", [volume]):
                if "configMap" in source and not source["configMap"].get("optional"):
                    manifests.get("ConfigMap", source["configMap"]["name"])
        for constraint in pod.spec.get("topologySpreadConstraints", []):
            assert constraint["labelSelector"]["matchLabels"].items() <= pod.labels.items()


def _port(pod: Pod, name: str) -> int:
    (found,) = [
        port["containerPort"]
        for container in pod.containers
        for port in container.get("ports", [])
        if port["name"] == name
    ]
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_probes_mean_what_they_say(manifests: Manifests, service: str) -> None:
    """A pod is killed only if it does not answer at all, and gets work only while it can do it."""
    pod = manifests.pod(service)
    (container,) = pod.containers
    paths = {
        kind: (container[f"{kind}Probe"]["httpGet"]["path"], container[f"{kind}Probe"]["httpGet"]["port"])
        for kind in ("startup", "readiness", "liveness")
    }
    assert paths == {
        "startup": ("/health", "http"),
        "readiness": ("/ready", "http"),
        "liveness": ("/health", "http"),
    }
    start = container["startupProbe"]
    # A machine that starts many pods at once takes its time; liveness is not asked before.
    assert start["failureThreshold"] * start["periodSeconds"] >= 60
    # Readiness asks the stores, each with 1.5 seconds.
    assert container["readinessProbe"]["timeoutSeconds"] >= 2


@pytest.mark.parametrize(
    ("answer", "status", "ready", "alive"),
    [
        ("PONG", 0, True, True),
        ("LOADING Valkey is loading the dataset in memory", 0, False, True),
        # The Secret was changed, and Valkey is not started again yet.
        ("NOAUTH Authentication required.", 0, True, True),
        # Nobody answers.
        ("", 1, False, False),
    ],
)
def test_valkey_s_probes_know_what_it_answers(
    manifests: Manifests, tmp_path: Path, answer: str, status: int, ready: bool, alive: bool
) -> None:
    """It is killed where it does not answer, and keeps its name as long as it can be worked with."""
    program = tmp_path / "valkey-cli"
    program.write_text(f"#!/bin/sh\necho '{answer}'\nexit {status}\n")
    program.chmod(0o755)
    (tmp_path / "password").write_text("p0valkey")
    (container,) = manifests.pod("valkey").containers
    for kind, expected in (("readiness", ready), ("liveness", alive), ("startup", alive)):
        command = [
            word.replace("/run/secrets/valkey_password", str(tmp_path / "password"))
            for word in container[f"{kind}Probe"]["exec"]["command"]
        ]
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(command, env={"PATH": path}, capture_output=True, timeout=60, check=False)
        assert (done.returncode == 0) is expected, kind


@pytest.mark.parametrize("service", SERVICES)
def test_metrics_are_scraped_where_they_are(manifests: Manifests, service: str) -> None:
    """Prometheus is told the port of the pod's HTTP, which is the one of its settings."""
    pod = manifests.pod(service)
    _, config, _ = SERVICES[service]
    defaults = {field.name: field.default for field in msgspec.structs.fields(config)}
    port = defaults["http_port"]
    assert _port(pod, "http") == port
    assert pod.annotations["prometheus.io/scrape"] == "true"
    assert pod.annotations["prometheus.io/path"] == "/metrics"
    assert pod.annotations["prometheus.io/port"] == str(port)
    if service == "gateway-ws":
        assert _port(pod, "ws") == defaults["ws_port"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_the_time_to_end_that_it_takes(manifests: Manifests, service: str) -> None:
    """The grace period is longer than all that a service does at its end, one after the other."""
    pod = manifests.pod(service)
    (container,) = pod.containers
    waiting = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    settings = manifests.environment(pod, container)
    seconds = waiting + ending_seconds(service, float(settings.get("GATEWAY_DRAIN_SECONDS", 0)))
    assert seconds < pod.spec["terminationGracePeriodSeconds"]


def test_edge_and_stores_have_the_time_to_end_that_they_take(manifests: Manifests) -> None:
    """The edge gives sockets some seconds, nats-server sends its clients away one by one."""
    edge = manifests.pod("edge")
    (container,) = edge.containers
    frame = (ROOT / "deploy" / "edge" / "nginx.conf").read_text()
    (worker_seconds,) = re.findall(r"^worker_shutdown_timeout (\d+)s;", frame, re.MULTILINE)
    waiting = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert waiting + int(worker_seconds) < edge.spec["terminationGracePeriodSeconds"]
    cluster = (ROOT / "deploy" / "nats" / "cluster.conf").read_text()
    leaving = sum(int(seconds) for seconds in re.findall(r"lame_duck_\w+: \"(\d+)s\"", cluster))
    assert leaving == 35 < manifests.pod("nats").spec["terminationGracePeriodSeconds"]


def test_everything_is_called_by_its_own_name(manifests: Manifests) -> None:
    """The label by which policies and budgets choose pods is the workload's name."""
    for pod in manifests.pods():
        assert pod.labels[NAME] == pod.name
        assert pod.labels["app.kubernetes.io/part-of"] == "artcafe"


@pytest.mark.parametrize("overlay_name", OVERLAYS)
def test_what_is_set_by_hand_is_used(overlay_name: str) -> None:
    """No file of settings lies about that no kustomization names."""
    folder = ROOT / "k8s" / "overlays" / overlay_name
    text = (folder / "kustomization.yaml").read_text()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "kustomization.yaml":
            assert str(path.relative_to(folder)) in text, path


def test_every_file_is_valid_by_itself() -> None:
    """Each file is YAML without a key twice."""
    for path in sorted((ROOT / "k8s").rglob("*.yaml")):
        for node in yaml.compose_all(path.read_text()):
            _unique(node)


def _unique(node: yaml.Node | None) -> None:
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: {keys}"
        for _, value in node.value:
            _unique(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _unique(value)
