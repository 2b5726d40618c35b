"""Addresses of servers, as people write them."""

from __future__ import annotations

import pytest

from artcafe_agent import ConfigurationError
from artcafe_agent.address import ServerAddress, check_id, default_server


@pytest.mark.parametrize(
    ("given", "http", "socket"),
    [
        ("http://localhost:8080", "http://localhost:8080", "ws://localhost:8080/ws/agent/a"),
        ("ws://localhost:8080", "http://localhost:8080", "ws://localhost:8080/ws/agent/a"),
        ("https://pubsub.example.com", "https://pubsub.example.com", "wss://pubsub.example.com/ws/agent/a"),
        ("wss://pubsub.example.com/", "https://pubsub.example.com", "wss://pubsub.example.com/ws/agent/a"),
        ("wss://example.com/ws", "https://example.com", "wss://example.com/ws/agent/a"),
        ("wss://example.com/ws/agent/old", "https://example.com", "wss://example.com/ws/agent/a"),
        ("wss://example.com/api/v1/ws/", "https://example.com", "wss://example.com/ws/agent/a"),
        ("https://example.com/api/v1", "https://example.com", "wss://example.com/ws/agent/a"),
        ("https://example.com/art", "https://example.com/art", "wss://example.com/art/ws/agent/a"),
        ("https://example.com/art/api/v1/", "https://example.com/art", "wss://example.com/art/ws/agent/a"),
        ("ws://[::1]:8080", "http://[::1]:8080", "ws://[::1]:8080/ws/agent/a"),
        (" HTTP://Example.com ", "http://example.com", "ws://example.com/ws/agent/a"),
    ],
)
def test_addresses_are_understood(given: str, http: str, socket: str) -> None:
    """Both schemes, with or without the paths of sockets and API, and below a path."""
    address = ServerAddress.parse(given)
    assert str(address) == http
    assert address.api("agents") == f"{http}/api/v1/agents"
    assert address.socket("agent", "a") == socket


@pytest.mark.parametrize(
    "given",
    [
        "",
        "localhost:8080",
        "ftp://x",
        "http://",
        "http://user:secret@host",
        "http://h?x=1",
        "http://h#x",
        "http://h:port",
        "http://h:99999",
    ],
)
def test_what_is_no_address_is_refused(given: str) -> None:
    """With an error that shows no password."""
    with pytest.raises(ConfigurationError) as caught:
        ServerAddress.parse(given)
    assert "secret" not in str(caught.value)


def test_path_segments_cannot_break_out() -> None:
    """Whatever an id contains stays one segment, and a query's values stay values."""
    address = ServerAddress.parse("http://h")
    assert address.api("agents", "../tenants/x?y#z") == "http://h/api/v1/agents/..%2Ftenants%2Fx%3Fy%23z"
    assert address.api("agents", "..") == "http://h/api/v1/agents/%2E%2E"
    assert address.socket("agent", "a", query={"signature": "a+b/c=", "none": None}) == (
        "ws://h/ws/agent/a?signature=a%2Bb%2Fc%3D"
    )


def test_environment_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable is as good as none."""
    monkeypatch.setenv("ARTCAFE_SERVER", "https://example.com")
    assert default_server() == "https://example.com"
    monkeypatch.setenv("ARTCAFE_SERVER", "")
    assert default_server() == "http://127.0.0.1:8080"


@pytest.mark.parametrize("value", ["", "a.b", "a b", "a/b", "é", "x" * 65, "a\n"])
def test_ids_follow_their_grammar(value: str) -> None:
    """A wrong id is told before anything is sent."""
    with pytest.raises(ConfigurationError):
        check_id(value, "agent_id")
    assert check_id("A_b-9", "agent_id") == "A_b-9"
