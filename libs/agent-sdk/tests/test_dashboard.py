"""The socket of people, over its breaks."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest
from sdk_peer import PATIENCE, UNIT
from sdk_rest import Dashboard, running_dashboard

from artcafe_agent import (
    CommandError,
    CredentialsRefused,
    Disconnected,
    ReconnectPolicy,
    UnexpectedAnswer,
    Unreachable,
)
from artcafe_agent.address import ServerAddress
from artcafe_agent.dashboard import DashboardFeed

QUICK = ReconnectPolicy(first_delay=UNIT / 5, longest_delay=UNIT)
WATCH: dict[str, Any] = {"type": "subscribe_channel", "channel_id": "team"}


def feed(url: str, *commands: dict[str, Any], policy: ReconnectPolicy = QUICK) -> DashboardFeed:
    """Return a feed of a person."""
    return DashboardFeed(
        ServerAddress.parse(url), "the-token", "acme", commands or (WATCH,), policy=policy, timeout=PATIENCE
    )


async def first(watched: DashboardFeed, count: int) -> list[dict[str, Any]]:
    """Return the first events of a feed."""
    events: list[dict[str, Any]] = []
    async with aclosing(watched.events()) as source:  # type: ignore[type-var]
        async for event in source:
            events.append(event)
            if len(events) == count:
                break
    return events


async def test_token_and_tenant_go_in_headers() -> None:
    """Never in the address, which is logged."""

    async def script(dashboard: Dashboard) -> None:
        assert dashboard.path == "/ws/dashboard"
        assert dashboard.headers["Authorization"] == "Bearer the-token"
        assert dashboard.headers["X-Tenant-Id"] == "acme"
        await dashboard.send(type="connected", tenant_id="acme", user_id="u", role="owner")
        assert await dashboard.receive() == {**WATCH, "id": "setup-1"}
        await dashboard.send(type="channel_message", channel_id="team", data=1)
        await dashboard.socket.wait_closed()

    async with running_dashboard(script) as url:
        events = await first(feed(url), 2)
    assert [event["type"] for event in events] == ["connected", "channel_message"]


async def test_commands_are_sent_again_after_a_break() -> None:
    """A feed goes on where the server drains or a token's socket ends."""

    async def script(dashboard: Dashboard) -> None:
        await dashboard.send(type="connected")
        assert (await dashboard.receive())["type"] == "subscribe_channel"
        await dashboard.send(type="channel_message", data=1)
        await dashboard.socket.close(1012)

    async with running_dashboard(script, script) as url:
        events = await first(feed(url), 4)
    assert [event["type"] for event in events] == ["connected", "channel_message"] * 2


async def test_refused_token_ends_it() -> None:
    """The reason comes as an event, the close code decides."""

    async def script(dashboard: Dashboard) -> None:
        await dashboard.send(type="error", code="unauthenticated", message="no")
        await dashboard.socket.close(4500, "expired")

    async with running_dashboard(script) as url:
        with pytest.raises(CredentialsRefused, match="expired"):
            await first(feed(url), 1)


async def test_refused_command_ends_it() -> None:
    """Watching a channel that is not there is an error, not silence."""

    async def script(dashboard: Dashboard) -> None:
        await dashboard.send(type="connected")
        command = await dashboard.receive()
        await dashboard.send(type="error", id=command["id"], code="not_found", message="channel not found")
        await dashboard.socket.wait_closed()

    async with running_dashboard(script) as url:
        with pytest.raises(CommandError, match="subscribe_channel: not_found: channel not found"):
            await first(feed(url), 2)


async def test_command_refused_for_now_is_tried_again() -> None:
    """A registry that is away for a moment ends nothing."""

    async def away(dashboard: Dashboard) -> None:
        await dashboard.send(type="connected")
        command = await dashboard.receive()
        await dashboard.send(type="error", id=command["id"], code="unavailable", message="later")
        await dashboard.socket.wait_closed()

    async def back(dashboard: Dashboard) -> None:
        await dashboard.send(type="connected")
        await dashboard.receive()
        await dashboard.send(type="channel_message", data=1)
        await dashboard.socket.wait_closed()

    async with running_dashboard(away, back) as url:
        events = await first(feed(url), 3)
    assert [event["type"] for event in events] == ["connected", "connected", "channel_message"]


async def test_other_errors_are_events() -> None:
    """What answers none of our commands is for the reader."""

    async def script(dashboard: Dashboard) -> None:
        await dashboard.send(type="connected")
        await dashboard.send(type="error", code="internal", message="something")
        await dashboard.socket.wait_closed()

    async with running_dashboard(script) as url:
        assert (await first(feed(url), 2))[1]["message"] == "something"


@pytest.mark.parametrize("frame", ["garbage", "[]", '{"type":"welcome"}'])
async def test_what_is_no_dashboard_socket(frame: str) -> None:
    """Another server on the address is told apart."""

    async def script(dashboard: Dashboard) -> None:
        await dashboard.socket.send(frame)
        await dashboard.socket.wait_closed()

    async with running_dashboard(script) as url:
        with pytest.raises(UnexpectedAnswer):
            await first(feed(url), 1)


async def test_without_reconnection_a_break_ends_it() -> None:
    """One answer is enough for a command that asks once."""

    async def script(dashboard: Dashboard) -> None:
        await dashboard.send(type="connected")
        await dashboard.socket.close(1012)

    async with running_dashboard(script) as url:
        with pytest.raises(Disconnected, match="1012"):
            await first(feed(url, policy=ReconnectPolicy(enabled=False)), 2)


async def test_no_server(closed_port: int) -> None:
    """The first connection fails at once."""
    with pytest.raises(Unreachable):
        await first(feed(f"http://127.0.0.1:{closed_port}"), 1)
