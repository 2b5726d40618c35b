"""compose.production.yaml: what it takes away, and what it asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from artcafe_devstack.ports import free_port

from .deployment import SERVICES, Deployment

FILES = ("--file", "compose.yaml", "--file", "compose.production.yaml")


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
        with httpx.Client(verify=deployment.tls()) as client:
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
