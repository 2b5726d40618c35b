"""compose.yaml and what stands beside it, as far as that can be told without an engine."""

from __future__ import annotations

import re

import msgspec
import pytest
import yaml

from artcafe_devstack.repository import repository_root
from artcafe_gateway.config import GatewayConfig

from ..kubernetes.ending import ending_seconds

ROOT = repository_root()
FILES = ("compose.yaml", "compose.production.yaml")


def test_the_example_has_every_variable_and_no_other() -> None:
    """Whoever copies .env.example sees all that can be set, with the default that holds."""
    used: dict[str, set[str]] = {}
    for name in FILES:
        text = (ROOT / name).read_text()
        for variable, default in re.findall(r"(?<!\$)\$\{([A-Z_]+)(?::-([^}]*))?", text):
            used.setdefault(variable, set()).add(default)
    shown = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    # Where `make images` takes it from git.
    assert used.keys() == shown.keys()
    for variable, defaults in used.items():
        given = {default for default in defaults if default}
        if len(given) == 1:
            assert shown[variable] == given.pop(), variable


def test_no_secret_has_a_default() -> None:
    """A password is a file that `make secrets` makes, never a value that comes with the files."""
    for name in FILES:
        text = (ROOT / name).read_text()
        for variable in re.findall(r"\$\{([A-Z_]+):-[^}]+\}", text):
            assert not re.search("PASSWORD|SECRET(?!S_DIR)|KEY$|TOKEN", variable), variable
    assert "/secrets/" in (ROOT / ".gitignore").read_text().split()


def test_every_image_has_a_tag() -> None:
    """Nothing is run at whatever version happens to be the latest, but the emulator of one machine."""
    images = re.findall(r"^\s+image: (\S+)$", (ROOT / "compose.yaml").read_text(), re.MULTILINE)
    assert len(images) >= 8
    for image in images:
        assert re.search(r":(?!latest)[^/:]+$", image) or "ministack" in image, image


def test_how_many_of_each_service_run_is_a_setting() -> None:
    """What was scaled stays so at the next `up`, since the number is in the files."""
    text = (ROOT / "compose.yaml").read_text()
    replicas = re.findall(
        r"^  ([a-z-]+):\n(?:    .*\n)*?    scale: \$\{([A-Z]+)_REPLICAS:-1\}$", text, re.MULTILINE
    )
    assert dict(replicas) == {
        "auth": "AUTH",
        "registry": "REGISTRY",
        "gateway-ws": "GATEWAY",
        "metering": "METERING",
    }


@pytest.mark.parametrize("service", ["auth", "registry", "gateway-ws", "metering"])
def test_a_service_has_the_time_to_end_that_it_takes(service: str) -> None:
    """Whatever a service does at its end, one after the other, it is not killed before."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    drain = {field.name: field.default for field in msgspec.structs.fields(GatewayConfig)}["drain_seconds"]
    given = compose["services"][service]["stop_grace_period"]
    assert ending_seconds(service, drain) < float(given.removesuffix("s"))


def test_the_edge_has_room_for_the_sockets_of_a_full_gateway() -> None:
    """It is not killed for its memory, nor out of connections, before a gateway says that it is full."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    (memory,) = re.findall(r"\$\{EDGE_MEMORY:-(\d+)m\}", compose["services"]["edge"]["mem_limit"])
    gateway = compose["services"]["gateway-ws"]["environment"]["GATEWAY_MAX_CONNECTIONS"]
    (sockets,) = re.findall(r"\d+", gateway)
    # By TLS: 56 KiB of nginx, 9 of the kernel.
    assert int(sockets) * 65 / 1024 < 0.9 * int(memory)
    (workers,) = re.findall(r"\$\{EDGE_WORKERS:-(\d+)\}", " ".join(compose["services"]["edge"]["command"]))
    frame = (ROOT / "deploy" / "edge" / "nginx.conf").read_text()
    (connections,) = re.findall(r"worker_connections (\d+);", frame)
    # Each socket is two connections.
    assert int(sockets) < int(connections) * int(workers) / 2
