"""The whole embedded stack, for tests that kill its processes under load; people and tenants as in `e2e`."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from ..e2e.conftest import TestedStack, admin, admin_tokens, api, new_person, new_tenant

__all__ = ["admin", "admin_tokens", "api", "new_person", "new_tenant"]

SECONDS_VARIABLE = "CHAOS_SECONDS"
SEED_VARIABLE = "CHAOS_SEED"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestedStack]:
    """Run the embedded stack with two gateways, which find each other's dead agents quickly."""
    settings = {
        "auth": {"AUTH_ADDRESS_RATE": "0", "AUTH_AGENT_RATE": "0", "AUTH_LOGIN_RATE": "0"},
        "gateway": {
            "GATEWAY_LEASE_TIMEOUT": "6",
            "GATEWAY_SWEEP_INTERVAL": "2",
            "GATEWAY_DRAIN_SECONDS": "0.5",
        },
    }
    running = TestedStack(tmp_path_factory.mktemp("stack"), gateways=2, env=settings)
    with running:
        yield running


@pytest.fixture(scope="session")
def chaos_seconds() -> float:
    """How long processes are killed, at least until each was once: 0, or the variable CHAOS_SECONDS."""
    return float(os.environ.get(SECONDS_VARIABLE, "0"))


@pytest.fixture
def chance() -> random.Random:
    """Give chance, whose seed is printed; the variable CHAOS_SEED repeats one."""
    seed = os.environ.get(SEED_VARIABLE) or str(random.SystemRandom().randrange(10**6))
    print(f"chaos: {SEED_VARIABLE}={seed}")
    return random.Random(seed)
