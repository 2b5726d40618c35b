"""Fixtures of the SDK's tests."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from artcafe_agent import AgentKey, Client, ReconnectPolicy

# The tests are no package: what they share is found beside them.
sys.path.insert(0, str(Path(__file__).parent))

from sdk_peer import AGENT, PATIENCE, TENANT, UNIT, Peer, running_peer
from sdk_rest import RestPeer, running_rest

QUICK = ReconnectPolicy(first_delay=UNIT / 5, longest_delay=UNIT)


@pytest.fixture(scope="session")
def key() -> AgentKey:
    """Give the key of the agent under test."""
    return AgentKey.generate()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Give a port at which nobody listens, and which nobody else is given meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


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
            "command_timeout": PATIENCE,
        }
        return Client(**{**given, **settings})

    return make


@pytest.fixture
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep a test of the command line out of the person's own settings, and those out of the test."""
    for name in ("SERVER", "TENANT", "AGENT", "KEY", "TOKEN"):
        monkeypatch.delenv(f"ARTCAFE_{name}", raising=False)
    monkeypatch.setenv("ARTCAFE_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def rest(own_settings: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RestPeer]:
    """Run a REST peer at which the person of the command line is logged in."""
    with running_rest() as peer:
        monkeypatch.setenv("ARTCAFE_SERVER", peer.url)
        monkeypatch.setenv("ARTCAFE_TOKEN", "the-token")
        yield peer
