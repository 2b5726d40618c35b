"""compose.production.yaml: what it takes away, and what it asks for."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from artcafe_devstack.ports import free_port

from .deployment import SERVICES, Deployment

FILES = ("--file", "compose.yaml", "--file", "compose.production.yaml")
START_SECONDS = 240

# AWS for the test, reached by the services' ways out, with the credentials of a machine's role.
AWS = """
x-credentials: &credentials
  AWS_ENDPOINT_URL: http://aws:4566
  AWS_ACCESS_KEY_ID: "000000000000"
  AWS_SECRET_ACCESS_KEY: emulator
services:
  auth: { environment: *credentials }
  registry: { environment: *credentials }
  gateway-ws: { environment: *credentials }
  metering: { environment: *credentials }
  aws:
    image: ${MINISTACK_IMAGE:-ministackorg/ministack:latest}
    environment: { SERVICES: "dynamodb,s3,sts" }
    networks: [auth-outside, registry-outside, gateway-outside, metering-outside]
"""


@pytest.fixture
def production(deployment: Deployment, tmp_path: Path) -> dict[str, str]:
    """Give the settings that production requires."""
    issuers = tmp_path / "issuers.json"
    issuers.write_text('[{"issuer": "https://id.example.test", "audiences": ["artcafe"]}]')
    issuers.chmod(0o644)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    return {
        "AWS_REGION": "eu-central-1",
        "PUBLIC_URL": "https://pubsub.example.test",
        "USAGE_EXPORT_BUCKET": "example-exports",
        "USAGE_BACKUP_BUCKET": "example-backups",
        "AUTH_ISSUERS_FILE": str(issuers),
        "TLS_CERTIFICATE_FILE": str(deployment.secrets / "tls_certificate.pem"),
        "TLS_KEY_FILE": str(deployment.secrets / "tls_key.pem"),
        "EDGE_HTTPS_PORT": "443",
    }


def test_production_has_no_emulator_no_local_issuer_and_no_plain_http(
    deployment: Deployment, production: dict[str, str]
) -> None:
    """What is meant for one machine only is gone from the merged form."""
    merged: dict[str, Any] = json.loads(
        deployment.compose(*FILES, "config", "--format", "json", env=production)
    )
    assert "ministack" not in json.dumps(merged["services"]) + json.dumps(merged["volumes"])
    for name in SERVICES:
        environment = merged["services"][name]["environment"]
        assert environment["ENVIRONMENT"] == "production", name
        assert not {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} & set(environment), name
        assert environment.get("CREATE_TABLES", "false") == "false", name
    assert "AUTH_LOCAL_ISSUER_URL" not in merged["services"]["auth"]["environment"]
    assert [port["published"] for port in merged["services"]["edge"]["ports"]] == ["443"]
    assert "listen 8080" not in merged["services"]["edge"]["environment"]["EDGE_LISTEN"]


def test_each_service_accepts_its_production_settings(
    deployment: Deployment, production: dict[str, str]
) -> None:
    """The settings are complete and readable by the user of the container."""
    deployment.report("production settings")
    project = {**production, "COMPOSE_PROJECT_NAME": f"{deployment.project}-prod"}
    try:
        for name in SERVICES:
            run = ("run", "--rm", "--no-TTY", "--no-deps", name, "--check-config")
            assert "configuration: ok" in deployment.compose(*FILES, *run, env=project), name
    finally:
        deployment.compose(*FILES, "down", "--volumes", env=project)


def _put_certificate(folder: Path) -> ssl.SSLContext:
    """Put a certificate of one's own under the names of those that are made; return who trusts it alone."""
    certificate, key = folder / "tls_certificate.pem", folder / "tls_key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    make += ["-subj", "/CN=pubsub.example.test", "-addext", "subjectAltName=IP:127.0.0.1"]
    for file in (certificate, key):
        file.unlink(missing_ok=True)
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    key.chmod(0o444)
    return ssl.create_default_context(cafile=certificate)


@pytest.fixture
def running(deployment: Deployment, production: dict[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """Start production as the runbook says, with an emulator for AWS; give the settings."""
    aws = tmp_path / "aws.yaml"
    aws.write_text(AWS)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    _put_certificate(secrets)
    settings = {
        **production,
        "SECRETS_DIR": str(secrets),
        "TLS_CERTIFICATE_FILE": str(secrets / "tls_certificate.pem"),
        "TLS_KEY_FILE": str(secrets / "tls_key.pem"),
        "COMPOSE_PROJECT_NAME": f"{deployment.project}-whole",
        "COMPOSE_FILE": f"compose.yaml:compose.production.yaml:{aws}",
        "EDGE_BIND": "127.0.0.1",
        "EDGE_HTTPS_PORT": str(free_port()),
    }
    up = ("up", "--detach", "--wait", "--pull", "never", "--no-build")
    try:
        deployment.script("make-secrets.sh", env=settings)
        deployment.report("production: tables")
        deployment.compose(*up, "aws", env=settings, seconds=START_SECONDS)
        deployment.script("tables.sh", "create-tables", env=settings, seconds=START_SECONDS)
        deployment.report("production: everything")
        try:
            deployment.compose(*up, env=settings, seconds=START_SECONDS)
        except AssertionError as error:
            logs = deployment.compose("logs", "--no-color", "--tail", "20", env=settings)
            raise AssertionError(f"{error}\n{logs}") from None
        yield settings
    finally:
        deployment.compose("down", "--volumes", env=settings, seconds=START_SECONDS)


def _healthy(address: str, trust: ssl.SSLContext) -> httpx.Response:
    """Ask how all is until it is well, and return the answer."""
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(verify=trust, timeout=30) as client:
        while (health := client.get(address)).status_code != 200:
            assert time.monotonic() < deadline, health.text
            time.sleep(0.2)
    return health


def test_production_starts(deployment: Deployment, running: dict[str, str]) -> None:
    """With new volumes all gets ready, nothing had to try twice, and the edge takes its next certificate."""
    ids = deployment.compose("ps", "--quiet", env=running).split()
    found = json.loads(deployment.docker("inspect", *ids))
    names = {each["Config"]["Labels"]["com.docker.compose.service"] for each in found}
    assert names == {*SERVICES, "edge", "nats", "valkey", "aws"}
    for each in found:
        assert each["State"]["Health"]["Status"] == "healthy" and each["RestartCount"] == 0, each["Name"]
    secrets = Path(running["SECRETS_DIR"])
    trust = ssl.create_default_context(cafile=secrets / "tls_certificate.pem")
    address = f"https://127.0.0.1:{running['EDGE_HTTPS_PORT']}/health"
    health = _healthy(address, trust)
    assert {each["status"] for each in health.json()["services"].values()} == {"up"}, health.text
    # One's own certificate is rotated by putting another in place, wherever it lies: none is made over it.
    deployment.report("production: the next certificate")
    trust = _put_certificate(secrets)
    placed = (secrets / "tls_key.pem").read_bytes()
    deployment.script("rotate.sh", "certificate", env=running, seconds=START_SECONDS)
    assert (secrets / "tls_key.pem").read_bytes() == placed
    # A new edge looks the names up first.
    _healthy(address, trust)


def test_the_production_edge_speaks_tls_only(deployment: Deployment, production: dict[str, str]) -> None:
    """The edge has the given certificate, tells browsers to insist, and answers for absent services."""
    port = free_port()
    project = {
        **production,
        "COMPOSE_PROJECT_NAME": f"{deployment.project}-edge",
        "EDGE_BIND": "127.0.0.1",
        "EDGE_HTTPS_PORT": str(port),
    }
    try:
        up = ("up", "--detach", "--wait", "--pull", "never", "--no-deps", "edge")
        deployment.compose(*FILES, *up, env=project)
        with httpx.Client(verify=deployment.tls(), timeout=30) as client:
            answer = client.get(f"https://127.0.0.1:{port}/api/v1/agents")
            plain = client.get(f"http://127.0.0.1:{port}/api/v1/agents")
        assert answer.status_code == 503 and answer.json()["code"] == "unavailable"
        assert "max-age=" in answer.headers["Strict-Transport-Security"]
        assert plain.status_code == 400
    finally:
        deployment.compose(*FILES, "down", "--volumes", env=project)


@pytest.mark.parametrize(
    "variable",
    [
        "AWS_REGION",
        "PUBLIC_URL",
        "USAGE_EXPORT_BUCKET",
        "USAGE_BACKUP_BUCKET",
        "AUTH_ISSUERS_FILE",
        "TLS_CERTIFICATE_FILE",
        "TLS_KEY_FILE",
    ],
)
def test_production_asks_for_what_it_cannot_know(
    deployment: Deployment, production: dict[str, str], variable: str
) -> None:
    """Without one of the required settings nothing is started, and its name is told."""
    with pytest.raises(AssertionError, match=variable):
        deployment.compose(*FILES, "config", "--quiet", env={**production, variable: ""})
