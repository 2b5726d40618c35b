"""`publish`, `listen` and `tail`, as a person."""

from __future__ import annotations

import asyncio
import io
import sys

import pytest
from sdk_rest import Dashboard, RestPeer, running_dashboard

from artcafe_agent.cli import main
from artcafe_agent.cli.exits import Exit

Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("own_settings")


def test_publishing_as_a_person(rest: RestPeer, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object goes over REST, under a key that makes repeating it safe."""
    rest.on("POST /channels/team.updates/messages", {"message_id": "01M", "success": True})
    assert main(["publish", "team.updates", '{"n": 1}']) == Exit.OK
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"from": "stdin"}'))
    assert main(["publish", "team.updates", "-", "--json"]) == Exit.OK
    assert [each.body for each in rest.seen] == [{"n": 1}, {"from": "stdin"}]
    keys = {each.headers["idempotency-key"] for each in rest.seen}
    assert len(keys) == 2
    assert capsys.readouterr().out == '01M\n{\n  "channel": "team.updates",\n  "message_id": "01M"\n}\n'


async def run_beside(arguments: list[str]) -> int:
    """Run the command line in a thread, so that the test can be its server."""
    return await asyncio.to_thread(main, arguments)


async def test_publishing_other_values_as_a_person(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """What REST does not take goes through the socket."""
    monkeypatch.setenv("ARTCAFE_TOKEN", "the-token")

    async def script(dashboard: Dashboard) -> None:
        await dashboard.send(type="connected")
        command = await dashboard.receive()
        assert command == {"type": "publish_channel", "channel_id": "team", "data": None, "id": "setup-1"}
        await dashboard.send(type="published", channel_id="team", message_id="01M", id=command["id"])
        await dashboard.socket.wait_closed()

    async with running_dashboard(script) as url:
        assert await run_beside(["publish", "team", "null", "--server", url]) == Exit.OK
    assert capsys.readouterr() == ("01M\n", "")


async def test_listening_as_a_person(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Messages as lines, breaks on the side, until there were enough."""
    monkeypatch.setenv("ARTCAFE_TOKEN", "the-token")

    async def script(dashboard: Dashboard) -> None:
        await dashboard.send(type="connected")
        assert [(await dashboard.receive())["channel_id"] for _ in range(2)] == ["team", "other"]
        message = {"channel_id": "team", "from": "a\x1b[1m", "message_id": "m", "timestamp": "T"}
        await dashboard.send(type="channel_message", data={"n": 1}, **message)
        await dashboard.socket.close(1012, "restart")

    async with running_dashboard(script, script) as url:
        assert await run_beside(["listen", "team", "other", "--count", "2", "--server", url]) == Exit.OK
    out, err = capsys.readouterr()
    assert out == 'T  team  a\\x1b[1m  {"n": 1}\n' * 2
    assert "1012: restart" in err


async def test_listening_to_a_channel_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """It ends with the code for not found."""
    monkeypatch.setenv("ARTCAFE_TOKEN", "the-token")

    async def script(dashboard: Dashboard) -> None:
        await dashboard.send(type="connected")
        command = await dashboard.receive()
        await dashboard.send(type="error", id=command["id"], code="not_found", message="channel not found")
        await dashboard.socket.wait_closed()

    async with running_dashboard(script) as url:
        assert await run_beside(["listen", "nowhere", "--server", url]) == Exit.NOT_FOUND
    assert "subscribe_channel: not_found: channel not found" in capsys.readouterr().err


async def test_tail_shows_previews_and_what_was_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Single messages and batches; the server's notes go to stderr."""
    monkeypatch.setenv("ARTCAFE_TOKEN", "the-token")

    async def script(dashboard: Dashboard) -> None:
        await dashboard.send(type="connected")
        command = await dashboard.receive()
        assert command["patterns"] == ["team.>", "jobs"]
        assert command["max_rate"] == 5
        message = {
            "topic": "team.a",
            "timestamp": "T",
            "size": 1,
            "data": 7,
            "path": {"publisher": "agent-2"},
        }
        await dashboard.send(type="topic_preview_message", **message)
        await dashboard.send(type="topic_preview_dropped", count=12, reason="rate_limit", window_ms=1000)
        await dashboard.send(type="topic_preview_batch", messages=[message, message, message])
        await dashboard.socket.wait_closed()

    async with running_dashboard(script) as url:
        arguments = ["tail", "team.>", "jobs", "--rate", "5", "--count", "3", "--server", url]
        assert await run_beside(arguments) == Exit.OK
    out, err = capsys.readouterr()
    assert out == "T  team.a  agent-2  1 B  7\n" * 3
    assert "12 messages left out (rate_limit)" in err


async def test_watching_ends_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a message too, and that is no failure."""
    monkeypatch.setenv("ARTCAFE_TOKEN", "the-token")

    async def script(dashboard: Dashboard) -> None:
        await dashboard.send(type="connected")
        await dashboard.socket.wait_closed()

    async with running_dashboard(script) as url:
        assert await run_beside(["tail", "--for", "0.2", "--server", url]) == Exit.OK
