"""Fixtures of the SDK's tests."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from artcafe_agent import AgentKey, Client, ReconnectPolicy

# The tests are no package: what they share is found beside them.
sys.path.insert(0, str(Path(__file__).parent))

from sdk_peer import AGENT, TENANT, UNIT, Peer, running_peer

QUICK = ReconnectPolicy(first_delay=UNIT / 5, longest_delay=UNIT)


@pytest.fixture(scope="session")
def key() -> AgentKey:
    """Give the key of the agent under test."""
    return AgentKey.generate()


@pytest_asyncio.fixture
async def peer(key: AgentKey) -> AsyncIterator[Peer]:
    """Run a peer that knows the agent under test."""
    async with running_peer(key) as running:
        yield running


@pytest.fixture
def client_of(peer: Peer, key: AgentKey) -> Callable[..., Client]:
    """Give a maker of clients for the peer, with short delays."""

    def make(**settings: Any) -> Client:
        given: dict[str, Any] = {
            "base_url": peer.url,
            "tenant_id": TENANT,
            "agent_id": AGENT,
            "private_key": key,
            "reconnect": QUICK,
            "command_timeout": 40 * UNIT,
        }
        return Client(**{**given, **settings})

    return make
