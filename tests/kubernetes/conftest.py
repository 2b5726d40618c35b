from __future__ import annotations

import pytest

from .manifests import OVERLAYS, Manifests, build, kubectl, make_secrets


@pytest.fixture(scope="session")
def program() -> str:
    """The program that builds manifests."""
    found = kubectl()
    if found is None:
        pytest.fail(
            "kubectl is missing: install it, or run the container kit's k8s-check.sh, which fetches it"
        )
    return found


@pytest.fixture(scope="session")
def built(program: str) -> dict[str, Manifests]:
    """Every overlay."""
    return {name: build(program, f"k8s/overlays/{name}") for name in OVERLAYS}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    """The name of an overlay."""
    name: str = request.param
    return name


@pytest.fixture
def manifests(built: dict[str, Manifests], overlay: str) -> Manifests:
    """An overlay."""
    return built[overlay]


@pytest.fixture
def production(built: dict[str, Manifests]) -> Manifests:
    """The overlay for production."""
    return built["production"]


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The Secrets as the script makes them."""
    return make_secrets(tmp_path_factory.mktemp("secrets"))
