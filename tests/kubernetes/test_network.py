"""Who may talk to whom, worked out from the policies as a cluster does, beside a list of who should."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from .manifests import NAME, Manifests, Object, Pod

# From whom to whom on which port. Restores take whatever port is free, so that range is one entry.
RESTORE = range(32768, 61000)
INSIDE = {
    ("edge", "auth", 8101),
    ("edge", "registry", 8102),
    ("edge", "metering", 8103),
    ("edge", "gateway-ws", 8104),
    ("edge", "gateway-ws", 8105),
    ("auth", "nats", 4222),
    ("registry", "nats", 4222),
    ("gateway-ws", "nats", 4222),
    ("metering", "nats", 4222),
    ("nats", "nats", 6222),
    ("metering", "valkey", 6379),
    *(("valkey", "metering", port) for port in RESTORE),
}
STORES = ("auth", "registry", "gateway-ws", "metering", "tables")
MORE: dict[str, set[tuple[str, str, int]]] = {
    "local": {(name, "ministack", 4566) for name in STORES},
    "production": set(),
}
METRICS = {("auth", 8101), ("registry", 8102), ("metering", 8103), ("gateway-ws", 8104)}
PORTS = (53, 80, 443, 4222, 4566, 6222, 6379, *range(8080, 8110), 8222, *(RESTORE[0], RESTORE[-1]))
PROMETHEUS = Pod("", "prometheus", {NAME: "prometheus"}, {}, {"containers": []})
RESOLVER = Pod("", "kube-dns", {"k8s-app": "kube-dns"}, {}, {"containers": []})
STRANGER = Pod("", "stranger", {NAME: "edge"}, {}, {"containers": []})


def _matches(selector: Object, labels: dict[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    for expression in selector.get("matchExpressions", []):
        among = labels.get(expression["key"]) in expression["values"]
        if among != {"In": True, "NotIn": False}[expression["operator"]]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def _port_matches(rule: Object, protocol: str, port: int, target: Pod | None) -> bool:
    ports: list[dict[str, Any]] = rule["ports"]
    for each in ports:
        number = each["port"]
        if isinstance(number, str):
            assert target is not None
            (number,) = [
                p["containerPort"]
                for c in target.containers
                for p in c.get("ports", [])
                if p["name"] == number
            ]
        if each["protocol"] == protocol and number <= port <= each.get("endPort", number):
            return True
    return False


def _peer_matches(peer: Object, other: Pod | str, namespace: str) -> bool:
    if "ipBlock" in peer:
        if not isinstance(other, str):
            return False
        block, address = peer["ipBlock"], ip_address(other)
        return address in ip_network(block["cidr"]) and not any(
            address in ip_network(hole) for hole in block.get("except", [])
        )
    if isinstance(other, str):
        return False
    if "namespaceSelector" in peer:
        where = _matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
    else:
        where = namespace == "artcafe"
    return where and _matches(peer["podSelector"], other.labels)


def _allowed(
    manifests: Manifests,
    direction: str,
    pod: Pod,
    other: Pod | str,
    port: int,
    *,
    namespace: str = "artcafe",
    protocol: str = "TCP",
) -> bool:
    """Tell whether the policies of a pod let it talk to (`Egress`) or be talked to by another one."""
    chosen = False
    target = pod if direction == "Ingress" else other if isinstance(other, Pod) else None
    for policy in manifests.of("NetworkPolicy"):
        spec = policy["spec"]
        if direction not in spec["policyTypes"] or not _matches(spec["podSelector"], pod.labels):
            continue
        chosen = True
        for rule in spec.get(direction.lower(), []):
            peers = rule["from" if direction == "Ingress" else "to"]
            if _port_matches(rule, protocol, port, target) and any(
                _peer_matches(peer, other, namespace) for peer in peers
            ):
                return True
    return not chosen


def _pairs(manifests: Manifests) -> Iterator[tuple[Pod, Pod, int]]:
    for source in manifests.pods():
        for target in manifests.pods():
            for port in PORTS:
                yield source, target, port


def test_pods_reach_each_other_on_these_paths_only(manifests: Manifests, overlay: str) -> None:
    """Both ends let a path through, and there is no other one."""
    wanted = INSIDE | MORE[overlay]
    for source, target, port in _pairs(manifests):
        path = (source.name, target.name, port)
        leaves = _allowed(manifests, "Egress", source, target, port)
        enters = _allowed(manifests, "Ingress", target, source, port)
        assert (leaves and enters) is (path in wanted), path
        # One end alone would be a path that somebody forgot half of.
        assert leaves is enters, path


def test_names_are_asked_of_the_clusters_resolver(manifests: Manifests) -> None:
    """Everybody may ask for names but Valkey, and nobody anybody else."""
    for pod in manifests.pods():
        for protocol in ("TCP", "UDP"):
            for namespace in ("kube-system", "artcafe"):
                may = _allowed(manifests, "Egress", pod, RESOLVER, 53, namespace=namespace, protocol=protocol)
                assert may is (namespace == "kube-system" and pod.name != "valkey"), pod.name


def test_metrics_are_read_by_prometheus_alone(manifests: Manifests) -> None:
    """It comes from its own namespace, to the services, on the port where they are."""
    for pod in manifests.pods():
        for port in PORTS:
            may = _allowed(manifests, "Ingress", pod, PROMETHEUS, port, namespace="monitoring")
            assert may is ((pod.name, port) in METRICS), (pod.name, port)
            assert not _allowed(manifests, "Ingress", pod, PROMETHEUS, port, namespace="default")


def test_no_other_namespace_comes_in(manifests: Manifests) -> None:
    """A pod elsewhere that calls itself by a name of ours reaches nobody, and is reached by nobody."""
    for pod in manifests.pods():
        for port in PORTS:
            for direction in ("Ingress", "Egress"):
                assert not _allowed(manifests, direction, pod, STRANGER, port, namespace="default")


@pytest.mark.parametrize(
    ("address", "reached"),
    [
        ("52.94.5.1", True),
        ("10.0.3.4", False),
        ("172.20.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.10", False),
        ("169.254.169.254", False),
        ("169.254.170.23", False),
    ],
)
def test_the_way_out_leads_to_the_internet_by_https(
    production: Manifests, address: str, reached: bool
) -> None:
    """Services reach AWS and identity providers, nothing inside: not the cluster, not the machine."""
    for pod in production.pods():
        for port in PORTS:
            may = _allowed(production, "Egress", pod, address, port)
            assert may is (reached and pod.name in STORES and port == 443), (pod.name, port)


def test_locally_nobody_gets_out(built: dict[str, Manifests]) -> None:
    """On one machine everything is in the cluster."""
    local = built["local"]
    for pod in local.pods():
        assert not [port for port in PORTS if _allowed(local, "Egress", pod, "52.94.5.1", port)]


def test_clients_come_through_the_load_balancer(built: dict[str, Manifests]) -> None:
    """From its addresses to the edge, for requests and its check of health; locally by no policy."""
    for overlay, manifests in built.items():
        for pod in manifests.pods():
            for port in PORTS:
                inside = _allowed(manifests, "Ingress", pod, "10.0.7.7", port)
                assert inside is (overlay == "production" and pod.name == "edge" and port in (8080, 8081))
                assert not _allowed(manifests, "Ingress", pod, "10.1.0.1", port)
                assert not _allowed(manifests, "Ingress", pod, "203.0.113.9", port)
