"""What a container may not do, and whom it may not reach."""

from __future__ import annotations

import json

import pytest

from .deployment import SERVICES, Deployment

# Everything that listens, by the name under which others would look for it.
PORTS = {
    "edge": (8080, 8443),
    "auth": (8101,),
    "registry": (8102,),
    "metering": (8103,),
    "gateway-ws": (8104, 8105),
    "nats": (4222,),
    "valkey": (6379,),
    "ministack": (4566,),
}
# A network has no direction: NATS, Valkey and the emulator, which open no connections, could.
REACHES = {
    "edge": set(SERVICES),
    "auth": {"edge", "nats", "ministack"},
    "registry": {"edge", "nats", "ministack"},
    "gateway-ws": {"edge", "nats", "ministack"},
    "metering": {"edge", "nats", "valkey", "ministack"},
    "nats": {*SERVICES, "ministack"},
    "valkey": {"metering"},
    "ministack": {*SERVICES, "nats"},
}
MODULES = {
    "auth": "artcafe_auth",
    "registry": "artcafe_registry",
    "gateway-ws": "artcafe_gateway",
    "metering": "artcafe_metering",
}

# Prints the targets, as name or address and port, to which a connection can be made.
KNOCK = """
import concurrent.futures, socket, sys
def knock(target):
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 3).close()
        return target
    except OSError:
        return None
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    print(*filter(None, pool.map(knock, sys.argv[1:])))
"""


def _knock(deployment: Deployment, service: str, targets: list[str]) -> set[str]:
    """Knock from a container's place in its networks; most have no program that could do it."""
    place = f"--network=container:{deployment.container(service)['Id']}"
    image = f"{deployment.project}/auth:test"
    output = deployment.docker(
        "run", "--rm", "--pull=never", place, "--entrypoint=python", image, "-c", KNOCK, *targets
    )
    return set(output.split())


@pytest.mark.parametrize("service", PORTS)
def test_everybody_reaches_whom_the_runbook_says(deployment: Deployment, service: str) -> None:
    """By name and by address nobody reaches anybody else, and nobody but the edge has a way out."""
    targets: dict[str, str] = {}
    for name, ports in PORTS.items():
        networks = deployment.container(name)["NetworkSettings"]["Networks"].values()
        for host in (name, *(network["IPAddress"] for network in networks)):
            targets |= {f"{host}:{port}": name for port in ports if name != service}
    outside = [] if service == "edge" else ["1.1.1.1:443", "8.8.8.8:53"]
    reached = {targets.get(each, each) for each in _knock(deployment, service, [*targets, *outside])}
    if missing := REACHES[service] - reached:
        # Whoever opens too late may have been missed; knocking longer at all would take long.
        again = [each for each, name in targets.items() if name in missing]
        reached |= {targets[each] for each in _knock(deployment, service, again)}
    assert reached == REACHES[service]


def test_only_the_edge_publishes_ports(deployment: Deployment) -> None:
    """Nothing but the edge's two ports can be reached from outside, and these on the loopback only."""
    for container in deployment.containers():
        published = {
            (binding["HostIp"], binding["HostPort"])
            for bindings in container["NetworkSettings"]["Ports"].values()
            for binding in bindings or []
        }
        expected = (
            {("127.0.0.1", str(deployment.http_port)), ("127.0.0.1", str(deployment.https_port))}
            if container["Config"]["Labels"]["com.docker.compose.service"] == "edge"
            else set()
        )
        assert published == expected, container["Name"]


def test_nothing_that_runs_has_rights_or_writes_to_its_root(deployment: Deployment) -> None:
    """No process is root or has a capability, none can get any, and limits are set."""
    containers = deployment.containers()
    assert {c["Config"]["Labels"]["com.docker.compose.service"] for c in containers} == set(PORTS)
    for container in containers:
        name, host = container["Name"], container["HostConfig"]
        _, status = deployment.execute(container["Id"], "cat", "/proc/1/status")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        assert "0" not in fields["Uid"].split() and "0" not in fields["Gid"].split(), name
        for field in ("CapEff", "CapPrm", "CapBnd"):
            assert int(fields[field], 16) == 0, (name, field)
        assert fields["NoNewPrivs"].strip() == "1", name
        assert host["Memory"] > 0 and host["PidsLimit"] > 0, name
        code, output = deployment.execute(container["Id"], "sh", "-c", ": > /written")
        assert code != 0 and "Read-only file system" in output, (name, output)


def test_secrets_are_told_to_those_who_need_them_only(deployment: Deployment) -> None:
    """Each container sees the files of its own secrets, and no environment holds a secret's value."""
    values = {
        f.name: f.read_text().strip() for f in deployment.secrets.iterdir() if f.name != "tls_certificate.pem"
    }
    assert values and all(len(value) >= 40 for value in values.values())
    for container in deployment.containers():
        service = container["Config"]["Labels"]["com.docker.compose.service"]
        environment = json.dumps([container["Config"]["Env"], container["Config"]["Cmd"], container["Args"]])
        assert not [name for name, value in values.items() if value in environment], service
        if service in SERVICES:
            _, found = deployment.execute(container["Id"], "sh", "-c", "ls /run/secrets")
            own = f"nats_{service.removesuffix('-ws')}_password"
            others = {"registry": {"registry_cursor_key"}, "metering": {"redis_url"}}.get(service, set())
            assert set(found.split()) == {own, *others}, service


def test_nats_and_valkey_let_nobody_in_without_a_password(deployment: Deployment) -> None:
    """A stranger on the network of a store is refused."""
    script = """
import socket
nats = socket.create_connection(("nats", 4222), 30)
nats.recv(4096); nats.sendall(b'CONNECT {"verbose":true}\\r\\nPING\\r\\n'); print(nats.recv(4096))
valkey = socket.create_connection(("valkey", 6379), 30)
valkey.sendall(b"PING\\r\\n"); print(valkey.recv(4096))
"""
    _, output = deployment.execute(deployment.container("metering")["Id"], "python", "-c", script)
    assert "Authorization Violation" in output and "NOAUTH" in output, output


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_its_own_service_and_no_tools(deployment: Deployment, service: str) -> None:
    """Nothing of another service is in the image, nor pip or a compiler; its bytecode is."""
    script = """
import importlib.util, pathlib, shutil, sys
print(*(n for n in sys.argv[1:] if importlib.util.find_spec(n)))
print(*(t for t in ("pip", "gcc", "cc", "make") if shutil.which(t)))
where = pathlib.Path(importlib.util.find_spec(sys.argv[1]).origin).parent
compiled = [pathlib.Path(importlib.util.cache_from_source(str(f))) for f in where.rglob("*.py")]
print(bool(compiled) and all(f.exists() for f in compiled))
"""
    own = MODULES[service]
    others = [module for module in MODULES.values() if module != own]
    names = [own, *others, "artcafe_agent", "artcafe_devstack", "pip", "hatchling", "pytest"]
    status, output = deployment.execute(deployment.container(service)["Id"], "python", "-c", script, *names)
    assert status == 0, output
    assert output.split("\n") == [own, "", "True"]
    image = json.loads(deployment.docker("image", "inspect", f"{deployment.project}/{service}:test"))[0]
    assert image["Config"]["User"] == "10001:10001"
    assert image["Config"]["Healthcheck"]["Test"][0] == "CMD"
    assert image["Config"]["Labels"]["org.opencontainers.image.version"] == "test"
