"""What production has beside the platform: replicas, autoscaling, budgets, roles, the way in."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import msgspec
import pytest
from prometheus_client import Gauge

from artcafe_auth.issuers import read_issuers
from artcafe_common.config import SharedConfig
from artcafe_common.contracts.metering import UsageBatch, UsageRow
from artcafe_common.ids import new_ulid
from artcafe_common.streams import USAGE
from artcafe_common.tables import INDEX_WAIT_SECONDS
from artcafe_gateway import metrics
from artcafe_gateway.config import GatewayConfig
from artcafe_metering.config import MeteringConfig

from .manifests import NAME, ROOT, SERVICES, Manifests, build

SCALED = ("edge", *SERVICES)
ALWAYS_THREE = "nats"
# What a socket takes of the edge: 26 KiB of nginx (tools/devstack/tests/test_edge.py) and 9 of the kernel.
SOCKET_KIB = 35


def test_services_and_edge_grow_by_load_and_are_never_alone(production: Manifests) -> None:
    """Each has an autoscaler with two pods at least, and no number of replicas to fight with it."""
    scalers = {each["metadata"]["name"]: each["spec"] for each in production.of("HorizontalPodAutoscaler")}
    assert scalers.keys() == set(SCALED)
    for name, scaler in scalers.items():
        assert "replicas" not in production.get("Deployment", name)["spec"]
        assert 2 <= scaler["minReplicas"] < scaler["maxReplicas"], name
        resources = [each["resource"] for each in scaler["metrics"] if each["type"] == "Resource"]
        assert "cpu" in {each["name"] for each in resources}
        assert all(each["target"]["type"] == "AverageValue" for each in resources)


def test_gateways_grow_by_their_sockets_and_shrink_slowly(production: Manifests) -> None:
    """The metric exists, a lost pod's agents fit into the others, and one pod at a time is drained."""
    spec = production.get("HorizontalPodAutoscaler", "gateway-ws")["spec"]
    (sockets,) = [each["pods"] for each in spec["metrics"] if each["type"] == "Pods"]
    assert isinstance(metrics.CONNECTIONS, Gauge)
    assert sockets["metric"]["name"] == next(iter(metrics.CONNECTIONS.describe())).name
    pod = production.pod("gateway-ws")
    environment = production.environment(pod, pod.containers[0])
    most = int(environment["GATEWAY_MAX_CONNECTIONS"])
    wanted, fewest = int(sockets["target"]["averageValue"]), spec["minReplicas"]
    assert wanted * fewest / (fewest - 1) <= 0.7 * most
    down = spec["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] >= 1800
    (policy,) = down["policies"]
    assert policy["type"] == "Pods" and policy["value"] == 1
    assert policy["periodSeconds"] >= 2 * pod.spec["terminationGracePeriodSeconds"]
    # Of several processes in a pod one would answer a scrape with its own sockets only.
    assert environment["GATEWAY_WORKERS"] == "1"


def test_the_edge_grows_by_its_sockets_and_shrinks_slowly(production: Manifests) -> None:
    """There are as many pods as its sockets need memory, and a lost pod's sockets fit into the others."""
    scalers = {each["metadata"]["name"]: each["spec"] for each in production.of("HorizontalPodAutoscaler")}
    spec, of_gateways = scalers["edge"], scalers["gateway-ws"]
    (target,) = [
        each["resource"]["target"]["averageValue"]
        for each in spec["metrics"]
        if each["type"] == "Resource" and each["resource"]["name"] == "memory"
    ]
    wanted, fewest = int(target.removesuffix("Mi")), spec["minReplicas"]
    (container,) = production.pod("edge").containers
    limit = {"1Gi": 1024}[container["resources"]["limits"]["memory"]]
    assert wanted * fewest / (fewest - 1) <= 0.8 * limit
    assert container["resources"]["requests"]["memory"] == target
    sockets = wanted * 1024 / SOCKET_KIB
    frame = (ROOT / "deploy" / "edge" / "nginx.conf").read_text()
    (connections,) = re.findall(r"worker_connections (\d+);", frame)
    workers = int(production.environment(production.pod("edge"), container)["EDGE_WORKERS"])
    # Each socket is two connections.
    assert 2 * sockets <= 0.8 * int(connections) * workers / 2
    (by_sockets,) = [each["pods"]["target"] for each in of_gateways["metrics"] if each["type"] == "Pods"]
    assert sockets * spec["maxReplicas"] >= int(by_sockets["averageValue"]) * of_gateways["maxReplicas"]
    # Who takes a pod away cuts its sockets.
    assert spec["behavior"]["scaleDown"] == of_gateways["behavior"]["scaleDown"]


def test_machines_are_emptied_one_pod_at_a_time(production: Manifests) -> None:
    """Whatever there are several of has a budget; that of Valkey, which is alone, would block a machine."""
    budgets = {each["metadata"]["name"]: each["spec"] for each in production.of("PodDisruptionBudget")}
    assert budgets.keys() == {*SCALED, "nats"}
    for name, budget in budgets.items():
        assert budget["maxUnavailable"] == 1
        assert budget["selector"]["matchLabels"] == {NAME: name}


def test_pods_are_spread(production: Manifests) -> None:
    """Over zones and machines; two servers of NATS never share a machine."""
    for name in (*SCALED, "nats"):
        constraints = production.pod(name).spec["topologySpreadConstraints"]
        keys = {each["topologyKey"]: each["whenUnsatisfiable"] for each in constraints}
        hard = "DoNotSchedule" if name == "nats" else "ScheduleAnyway"
        assert keys == {"kubernetes.io/hostname": hard, "topology.kubernetes.io/zone": "ScheduleAnyway"}
        for each in constraints:
            assert each["maxSkew"] == 1
    # On fewer machines than there are servers a skew of one lets two of them share.
    (machines,) = [each for each in constraints if each["topologyKey"] == "kubernetes.io/hostname"]
    assert machines["minDomains"] == production.get("StatefulSet", "nats")["spec"]["replicas"]


def test_nats_is_three_and_streams_are_on_all(production: Manifests) -> None:
    """Servers, routes, addresses of clients and copies of streams agree."""
    spec = production.get("StatefulSet", "nats")["spec"]
    names = [f"nats-{number}.{spec['serviceName']}" for number in range(spec["replicas"])]
    pod = production.pod("nats")
    peers = production.environment(pod, pod.containers[0])["NATS_PEERS"]
    assert peers == " ".join(f"{name}:6222" for name in names)
    settings = production.get("ConfigMap", "settings")["data"]
    assert settings["NATS_URL"] == ",".join(f"nats://{name}:4222" for name in names)
    assert settings["NATS_STREAM_REPLICAS"] == str(len(names)) == "3"
    assert production.get("Service", "nats")["spec"]["publishNotReadyAddresses"] is True
    assert spec["podManagementPolicy"] == "Parallel"


def test_locally_there_is_one_of_everything(built: dict[str, Manifests]) -> None:
    """A small machine runs it, with streams on the one server."""
    local = built["local"]
    assert not local.of("HorizontalPodAutoscaler") and not local.of("PodDisruptionBudget")
    assert not local.of("Ingress")
    for kind in ("Deployment", "StatefulSet"):
        assert {each["spec"].get("replicas", 1) for each in local.of(kind)} == {1}
    assert local.get("ConfigMap", "settings")["data"]["NATS_STREAM_REPLICAS"] == "1"
    pod = local.pod("nats")
    assert local.environment(pod, pod.containers[0])["NATS_PEERS"] == ""
    assert "lifecycle" not in pod.containers[0]


def test_stores_keep_what_they_have(manifests: Manifests) -> None:
    """NATS and Valkey write to claims; Valkey's settings are those that metering needs."""
    for name in ("nats", "valkey"):
        (claim,) = manifests.get("StatefulSet", name)["spec"]["volumeClaimTemplates"]
        assert claim["metadata"]["name"] == "data"
        (container,) = manifests.pod(name).containers
        assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]
    valkey = manifests.get("ConfigMap", "valkey-config")["data"]["valkey.conf"]
    for line in ("appendonly yes", "appendfsync everysec", "save 30 1000", "maxmemory-policy noeviction"):
        assert line in valkey.splitlines()
    # A backup is read by Valkey from the address at which metering sees it.
    assert manifests.get("Service", "valkey")["spec"]["clusterIP"] == "None"
    pod = manifests.pod("metering")
    environment = manifests.environment(pod, pod.containers[0])
    assert environment["METERING_BACKUP_DIR"].startswith("/state/") and environment["METERING_BACKUP_BUCKET"]


def test_valkey_has_memory_for_a_copy(manifests: Manifests) -> None:
    """Writing a snapshot takes up to as much again as the data."""
    pod = manifests.pod("valkey")
    (container,) = pod.containers
    data = container["env"][0]["value"]
    most = {"384mb": 384, "2gb": 2048}[data]
    limit = container["resources"]["limits"]["memory"]
    assert {"768Mi": 768, "4Gi": 4096}[limit] >= 2 * most


def test_the_disk_of_nats_is_for_as_much_usage_as_the_runbook_says(production: Manifests) -> None:
    """Whoever installs is told how much it is for, by the size of a row and of the claim."""
    runbook = (
        (ROOT / "docs" / "operations.md").read_text().partition("How large the disks of NATS must be")[2]
    )
    (told,), (rows,) = re.findall(r"(\d+) bytes", runbook)[:1], re.findall(r"(\d+) such rows", runbook)
    row = UsageRow("acme", new_ulid(), "team.updates", 3, 30, 900, 9000)
    batch = UsageBatch(source=new_ulid(), seq=1, start=0.0, end=1.0, rows=[row] * 1000)
    assert 0.5 < len(msgspec.json.encode(batch)) / 1000 / int(told) < 1
    (claim,) = production.get("StatefulSet", "nats")["spec"]["volumeClaimTemplates"]
    size = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi"))
    assert f"claims' {size} GiB" in " ".join(runbook.split())
    assert USAGE.max_age is not None
    assert int(rows) * int(told) * USAGE.max_age < 0.75 * size * 2**30


def test_backups_of_two_days_have_room(manifests: Manifests) -> None:
    """A pod over the size of its folder would be evicted, so the folder takes all backups that are kept."""
    (state,) = [each for each in manifests.pod("metering").spec["volumes"] if each["name"] == "state"]
    if "ephemeral" in state:
        size = state["ephemeral"]["volumeClaimTemplate"]["spec"]["resources"]["requests"]["storage"]
    else:
        size = state["emptyDir"]["sizeLimit"]
    kept = {field.name: field.default for field in msgspec.structs.fields(MeteringConfig)}
    backups = kept["backup_kept_hours"] * 60 / kept["backup_interval_minutes"]
    most = {"384mb": 0.375, "2gb": 2}[manifests.pod("valkey").containers[0]["env"][0]["value"]]
    # A snapshot is smaller than what it is of.
    assert int(size.removesuffix("Gi")) > backups * most * 0.6


@pytest.mark.parametrize("name", ["registry", "gateway-ws"])
def test_usage_that_waits_has_room(production: Manifests, name: str) -> None:
    """What a process may keep, and what some that were killed have left, is below the limit of the folder."""
    pod = production.pod(name)
    (container,) = pod.containers
    environment = production.environment(pod, container)
    assert {"name": "state", "mountPath": environment["ARTCAFE_STATE_DIR"]} in container["volumeMounts"]
    (state,) = [each["emptyDir"] for each in pod.spec["volumes"] if each["name"] == "state"]
    spool = {field.name: field.default for field in msgspec.structs.fields(SharedConfig)}["usage_spool_mib"]
    assert int(state["sizeLimit"].removesuffix("Mi")) >= 4 * int(environment.get("USAGE_SPOOL_MIB", spool))


def test_tables_are_made_by_each_service_with_a_role_of_their_own(manifests: Manifests) -> None:
    """Each image makes its own tables, whatever the others do; a Job that is done makes room for the next."""
    job = manifests.get("Job", "tables")["spec"]
    pod = manifests.pod("tables")
    assert pod.spec["serviceAccountName"] == "tables"
    images = {name: manifests.pod(name).containers[0]["image"] for name in SERVICES}
    assert {each["name"]: each["image"] for each in pod.containers} == images
    assert all(each["args"] == ["create-tables"] for each in pod.containers)
    # Its log is there until then, and the service whose tables need a person keeps no other waiting.
    assert 300 <= job["ttlSecondsAfterFinished"] <= 600
    assert job["activeDeadlineSeconds"] > INDEX_WAIT_SECONDS
    assert pod.spec["restartPolicy"] == "Never"
    assert "initContainers" not in pod.spec
    for name in SERVICES:
        service = manifests.pod(name)
        assert "CREATE_TABLES" not in manifests.environment(service, service.containers[0])


def test_each_service_has_the_role_that_is_its_own(production: Manifests) -> None:
    """Those that need AWS get it by a role of the cluster; the account comes from one place."""
    roles = {
        each["metadata"]["name"]: each["metadata"].get("annotations", {}).get("eks.amazonaws.com/role-arn")
        for each in production.of("ServiceAccount")
    }
    assert {name: role for name, role in roles.items() if role} == {
        name: f"arn:aws:iam::000000000000:role/artcafe-{name}" for name in (*SERVICES, "tables")
    }
    text = subprocess.run(
        ["grep", "-rhoE", "AKIA[A-Z0-9]{16}", str(ROOT / "k8s")], capture_output=True, text=True, check=False
    ).stdout
    assert text == ""


def test_the_site_is_set_in_one_place(program: str, tmp_path: Path, built: dict[str, Manifests]) -> None:
    """Each line of site.env gets to where it belongs, and none stays behind."""
    values = {
        "AWS_REGION": "ap-south-1",
        "AWS_ACCOUNT_ID": "123456789012",
        "PUBLIC_HOST": "pubsub.example.org",
        "LOAD_BALANCER_CIDR": "10.77.0.0/20",
        "USAGE_EXPORT_BUCKET": "their-exports",
        "USAGE_BACKUP_BUCKET": "their-backups",
    }
    # A copy of what is built from, with another site.
    for folder in ("k8s", "deploy", "edge"):
        subprocess.run(["cp", "-r", str(ROOT / folder), str(tmp_path)], check=True)
    site = tmp_path / "k8s" / "overlays" / "production" / "settings" / "site.env"
    named = re.findall(r"^([A-Z_]+)=", site.read_text(), re.MULTILINE)
    assert set(named) == values.keys()
    site.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    theirs = build(program, str(tmp_path / "k8s" / "overlays" / "production"))
    text = json.dumps(theirs.objects)
    for value in values.values():
        assert value in text
    before = re.findall(
        r"eu-central-1\b|000000000000|artcafe\.example\.com|10\.0\.0\.0/16|artcafe-usage-", text
    )
    # The region of the example's identity provider is not ours.
    assert set(before) <= {"eu-central-1"}
    assert theirs.get("ConfigMap", "settings")["data"]["AWS_REGION"] == "ap-south-1"
    assert (
        theirs.get("ConfigMap", "gateway-ws-settings")["data"]["GATEWAY_PUBLIC_URL"]
        == "https://pubsub.example.org"
    )
    assert theirs.get("Ingress", "edge")["spec"]["rules"][0]["host"] == "pubsub.example.org"
    assert not [each for each in theirs.of("ConfigMap") if each["metadata"]["name"] == "site"]


def test_the_way_in_is_made_for_sockets(production: Manifests) -> None:
    """The load balancer waits longer than the server's pings, checks nginx itself and speaks TLS only."""
    ingress = production.get("Ingress", "edge")
    annotations = {key.rpartition("/")[2]: value for key, value in ingress["metadata"]["annotations"].items()}
    (idle,) = re.findall(r"idle_timeout.timeout_seconds=(\d+)", annotations["load-balancer-attributes"])
    pings = {field.name: field.default for field in msgspec.structs.fields(GatewayConfig)}
    assert int(idle) > pings["ping_interval"] + pings["ping_timeout"]
    # Longer than the edge waits for a service, and over before the edge ends a connection that is not in use.
    site = (ROOT / "edge" / "templates" / "artcafe.conf.template").read_text()
    (reading,) = re.findall(r"^    proxy_read_timeout (\d+)s;", site, re.MULTILINE)
    (unused,) = re.findall(r"^    keepalive_timeout (\d+)s;", site.partition("\nserver {")[2], re.MULTILINE)
    assert int(reading) < int(idle) < int(unused)
    assert "access_logs" not in annotations["load-balancer-attributes"]
    assert annotations["ssl-redirect"] == "443"
    edge = production.pod("edge")
    ports = {port["name"]: port["containerPort"] for port in edge.containers[0]["ports"]}
    assert annotations["healthcheck-port"] == str(ports["health"])
    # The balancer cuts nothing off that the edge still serves.
    (delay,) = re.findall(
        r"deregistration_delay.timeout_seconds=(\d+)", annotations["target-group-attributes"]
    )
    frame = (ROOT / "deploy" / "edge" / "nginx.conf").read_text()
    (shutdown,) = re.findall(r"^worker_shutdown_timeout (\d+)s;", frame, re.MULTILINE)
    serving = edge.containers[0]["lifecycle"]["preStop"]["sleep"]["seconds"] + int(shutdown)
    assert serving < int(delay) <= edge.spec["terminationGracePeriodSeconds"]
    real = production.get("ConfigMap", "edge-settings")["data"]["EDGE_REAL_IP"]
    assert real.startswith("set_real_ip_from 10.0.0.0/16 ;") and "X-Forwarded-For" in real


def test_the_example_of_identity_providers_is_one(production: Manifests, tmp_path: Path) -> None:
    """What stands in the place of the operator's issuers can be read."""
    file = tmp_path / "issuers.json"
    file.write_text(production.get("ConfigMap", "issuers")["data"]["issuers.json"])
    assert read_issuers(str(file), allow_http=False)


@pytest.mark.parametrize("name", SCALED)
def test_a_rollout_takes_nothing_away_before_the_new_is_there(production: Manifests, name: str) -> None:
    """New pods come first."""
    rolling = production.get("Deployment", name)["spec"]["strategy"]["rollingUpdate"]
    assert rolling["maxUnavailable"] == 0
