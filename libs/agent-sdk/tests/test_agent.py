"""`HeartbeatAgent` against the peer: handlers, stopping, health, and the habits of existing agents."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sdk_peer import AGENT, PATIENCE, TENANT, UNIT, Command, Peer, PeerSocket, until

from artcafe_agent import (
    AgentKey,
    ClientClosed,
    ConfigurationError,
    Disconnected,
    HeartbeatAgent,
    KeyFormatError,
    Message,
    ReplacedError,
    RevokedError,
)

AgentMaker = Callable[..., HeartbeatAgent]


@pytest.fixture
def key_file(key: AgentKey, tmp_path: Path) -> Path:
    """Give the file of the agent's private key."""
    file = tmp_path / "agent.key"
    file.write_bytes(key.private_bytes())
    file.chmod(0o600)
    return file


@pytest.fixture
def agent_of(peer: Peer, key_file: Path) -> AgentMaker:
    """Give a maker of agents for the peer, called as existing programs call it."""

    def make(**settings: Any) -> HeartbeatAgent:
        given: dict[str, Any] = {
            "agent_id": AGENT,
            "private_key_path": str(key_file),
            "organization_id": TENANT,
            "websocket_url": peer.url.replace("http:", "ws:"),
            "heartbeat_interval": 30,
            "auto_reconnect": True,
            "capabilities": ["monitoring"],
            "metadata": {"version": "1.0.0"},
        }
        return HeartbeatAgent(**{**given, **settings})

    return make


@asynccontextmanager
async def running(agent: HeartbeatAgent) -> AsyncIterator[asyncio.Task[None]]:
    """Run an agent beside the test, until the block ends."""
    task = asyncio.create_task(agent.run(handle_signals=False))
    await until(lambda: agent.client.is_online or task.done())
    try:
        yield task
    finally:
        await agent.stop()
        await asyncio.gather(task, return_exceptions=True)


async def test_handlers_of_every_shape_get_their_messages(peer: Peer, agent_of: AgentMaker) -> None:
    """Plain and async functions, with (subject, data) or one message, for channels and patterns."""
    agent = agent_of()
    seen: list[tuple[str, Any]] = []

    @agent.on_message("team.updates")
    async def by_subject(subject: str, data: Any) -> None:
        seen.append(("async two", (subject, data)))

    @agent.on_message("team.updates")
    def plain(subject: str, data: Any) -> None:
        seen.append(("plain two", (subject, data)))

    @agent.on_message("team.*")
    async def by_message(message: Message) -> None:
        seen.append(("async one", (message.channel, message.sender)))

    @agent.on_message("team.>")
    def plain_message(message: Message) -> None:
        seen.append(("plain one", message.data))

    async with running(agent):
        socket = await peer.socket()
        await socket.wait_for("subscribe", 3)
        await until(lambda: len(socket.channels) >= 3)
        await socket.deliver("team.updates", {"n": 1})
        await until(lambda: len(seen) == 4)
    assert dict(seen) == {
        "async two": ("team.updates", {"n": 1}),
        "plain two": ("team.updates", {"n": 1}),
        "async one": ("team.updates", "agent-2"),
        "plain one": {"n": 1},
    }
    assert by_subject.__name__ == "by_subject"


async def test_handler_that_raises_goes_on(
    peer: Peer, agent_of: AgentMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with its stack, and the next message is handled."""
    agent = agent_of()
    seen: list[int] = []

    @agent.on_message("team")
    async def fragile(subject: str, data: int) -> None:
        seen.append(data)
        if data == 1:
            raise ValueError("a bug of the handler")

    async with running(agent):
        socket = await peer.socket()
        await until(lambda: bool(socket.channels))
        await socket.deliver("team", 1)
        await socket.deliver("team", 2)
        await until(lambda: seen == [1, 2])
    record = next(record for record in caplog.records if record.levelno == logging.ERROR)
    assert "the handler of team raised" in record.message
    assert record.exc_info is not None


async def test_handler_may_publish_and_wait(peer: Peer, agent_of: AgentMaker) -> None:
    """Waiting for an acknowledgement inside a handler does not block what brings it."""
    agent = agent_of()

    @agent.on_message("ask")
    async def answer(subject: str, data: Any) -> None:
        published = await agent.publish("answer", {"to": data})
        assert published is not None
        await agent.publish("acknowledged", published.message_id, wait=False)

    async with running(agent):
        socket = await peer.socket()
        await until(lambda: bool(socket.channels))
        await socket.deliver("ask", 1)
        await socket.wait_for("publish", 2)
        assert [command["channel"] for command in socket.of_type("publish")] == ["answer", "acknowledged"]


async def test_slow_handler_delays_no_other_and_keeps_its_order(peer: Peer, agent_of: AgentMaker) -> None:
    """Each handler has its own queue."""
    agent = agent_of()
    slow_seen: list[int] = []
    quick_seen: list[int] = []
    gate = asyncio.Event()

    @agent.on_message("team")
    async def slow(subject: str, data: int) -> None:
        await gate.wait()
        slow_seen.append(data)

    @agent.on_message("team")
    async def quick(subject: str, data: int) -> None:
        quick_seen.append(data)

    async with running(agent):
        socket = await peer.socket()
        await until(lambda: bool(socket.channels))
        for number in range(5):
            await socket.deliver("team", number)
        await until(lambda: quick_seen == [0, 1, 2, 3, 4])
        assert slow_seen == []
        gate.set()
        await until(lambda: slow_seen == [0, 1, 2, 3, 4])


async def test_handler_registered_while_running_is_subscribed(peer: Peer, agent_of: AgentMaker) -> None:
    """Agents may decide later what they listen to."""
    agent = agent_of()
    seen: list[Any] = []
    async with running(agent):
        agent.on_message("late")(lambda message: seen.append(message.data))
        socket = await peer.socket()
        await until(lambda: socket.channels == ["late"])
        await socket.deliver("late", 1)
        await until(lambda: seen == [1])


async def test_states_its_presence_on_every_connection(peer: Peer, agent_of: AgentMaker) -> None:
    """Online with capabilities and metadata, again after a break, and offline at the end."""
    agent = agent_of()
    async with running(agent):
        first = await peer.socket()
        assert (await first.wait_for("presence")) == {
            "type": "presence",
            "id": "1",
            "status": "online",
            "capabilities": ["monitoring"],
            "metadata": {"version": "1.0.0"},
        }
        first.drop()
        second = await peer.socket(2)
        assert (await second.wait_for("presence"))["status"] == "online"
        await until(lambda: agent.client.is_online)
    assert (await second.wait_for("presence", 2))["status"] == "offline"
    await second.ended.wait()
    assert second.close_code == 1000


async def test_existing_agents_habits_work(peer: Peer, agent_of: AgentMaker) -> None:
    """A subclass with a set-up of its own, presence published as a message, and the health it reads."""

    class MonitoringAgent(HeartbeatAgent):
        async def setup(self) -> None:
            @self.on_message("system.health")
            async def handle(subject: str, data: Any) -> None:
                health = self.get_connection_health()
                await self.publish("system.health.response", {"ok": health["healthy"], "health": health})

        async def report(self) -> None:
            while self._running:
                await asyncio.sleep(UNIT)
                await self.publish(
                    "monitoring.status", {"ack": self.get_connection_health()["seconds_since_ack"]}
                )

        async def run(self, *, handle_signals: bool = False) -> None:
            await self.setup()
            reporting = asyncio.create_task(self.report())
            try:
                await super().run(handle_signals=handle_signals)
            finally:
                reporting.cancel()
                await asyncio.gather(reporting, return_exceptions=True)

    plain = agent_of(heartbeat_timeout_multiplier=3.0)
    assert plain.tenant_id == TENANT
    key = plain.client._keeper.identity.key
    agent = MonitoringAgent(AGENT, None, TENANT, peer.url, private_key=key, heartbeat_timeout_multiplier=3.0)
    async with running(agent):
        socket = await peer.socket()
        await agent.publish("agents.presence.online", {"agent_id": agent.agent_id, "status": "online"})
        await until(lambda: "system.health" in socket.channels)
        await socket.deliver("system.health", {})
        await until(
            lambda: (
                {"agents.presence.online", "monitoring.status", "system.health.response"}
                <= {command["channel"] for command in socket.of_type("publish")}
            )
        )
        answer = next(
            each for each in socket.of_type("publish") if each["channel"] == "system.health.response"
        )
        assert answer["data"]["ok"] is True


async def test_health_tells_the_truth(peer: Peer, agent_of: AgentMaker) -> None:
    """Before, during and after a connection; always ready to be published."""
    peer.heartbeat_interval = UNIT
    # A pause of the machine is longer than two such intervals.
    agent = agent_of(heartbeat_timeout_multiplier=PATIENCE / UNIT)
    before = agent.get_connection_health()
    assert (before["state"], before["is_healthy"], before["connection_id"]) == ("idle", False, None)
    assert (before["last_heartbeat"], before["last_heartbeat_ack"], before["connected_at"]) == (
        None,
        None,
        None,
    )
    async with running(agent):
        socket = await peer.socket()
        await socket.wait_for("heartbeat", 2)
        await agent.publish("a", 1)
        during = agent.get_connection_health()
        assert (during["state"], during["is_healthy"], during["healthy"]) == ("online", True, True)
        assert during["connection_id"] == "c1"
        assert during["server_id"] == "peer"
        assert during["messages_sent"] == 1
        assert 0 <= during["seconds_since_ack"] < 10
        for time in ("connected_at", "last_heartbeat", "last_heartbeat_ack"):
            assert during[time].endswith("Z")
        socket.drop()
        await (await peer.socket(2)).wait_for("heartbeat")
        await until(lambda: agent.client.is_online)
        again = agent.get_connection_health()
        assert (again["reconnects"], again["connection_id"], again["messages_sent"]) == (1, "c2", 1)
    after = agent.get_connection_health()
    assert (after["state"], after["is_healthy"]) == ("stopped", False)
    for health in (before, during, again, after):
        json.dumps(health)


async def test_missing_acknowledgements_are_unhealthy_and_reconnect(peer: Peer, agent_of: AgentMaker) -> None:
    """After the allowed number of intervals the connection is given up."""
    peer.heartbeat_interval = 2 * UNIT
    peer.acknowledges_heartbeats = False
    agent = agent_of(heartbeat_timeout_multiplier=3.0)
    async with running(agent):
        first = await peer.socket()
        await first.ended.wait()
        assert len(first.of_type("heartbeat")) <= 3
        peer.acknowledges_heartbeats = True
        await peer.socket(2)


async def test_stops_for_good_with_the_reason(peer: Peer, agent_of: AgentMaker) -> None:
    """What the server does not want back ends `run` with a typed error."""
    for code, kind in ((4501, RevokedError), (4006, ReplacedError)):
        agent = agent_of()
        async with running(agent) as task:
            await peer.sockets[-1].close(code)
            with pytest.raises(kind):
                await task
        assert not agent.is_running


async def test_without_reconnection_a_break_ends_it(peer: Peer, agent_of: AgentMaker) -> None:
    """`auto_reconnect=False` is for supervisors that restart the whole program."""
    agent = agent_of(auto_reconnect=False)
    async with running(agent) as task:
        (await peer.socket()).drop()
        with pytest.raises(Disconnected, match="1006"):
            await task


async def test_waits_for_a_server_that_is_not_there_yet(peer: Peer, agent_of: AgentMaker) -> None:
    """Agents and server may start in any order; stopping does not wait for the server."""
    peer.challenge_answer = (503, {}, b"")
    agent = agent_of()
    task = asyncio.create_task(agent.run(handle_signals=False))
    await until(lambda: agent.client.state == "waiting")
    async with asyncio.timeout(PATIENCE):
        await agent.stop()
        await task
    assert peer.sockets == []


async def test_refused_subscription_leaves_the_others(
    peer: Peer, agent_of: AgentMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel that may not be read yet is logged and asked for again later."""
    monkeypatch.setattr("artcafe_agent.agent.REFUSED_RETRY_SECONDS", 2 * UNIT)
    refusals = iter([True, False])

    async def refuse(socket: PeerSocket, command: Command) -> bool:
        if command["type"] == "subscribe" and command["channel"] == "later" and next(refusals):
            await socket.send(type="error", code="not_found", message="no", id=command["id"])
            return True
        return False

    peer.hook = refuse
    agent = agent_of()
    seen: list[Any] = []
    agent.on_message("later")(lambda subject, data: seen.append(data))
    agent.on_message("now")(lambda subject, data: seen.append(data))
    async with running(agent):
        socket = await peer.socket()
        await until(lambda: "now" in socket.channels)
        await socket.deliver("now", 1)
        await until(lambda: "later" in socket.channels)
        await socket.deliver("later", 2)
        await until(lambda: seen == [1, 2])


async def test_stopping_lets_handlers_finish(peer: Peer, agent_of: AgentMaker) -> None:
    """What was received is handled, and what handlers publish goes out, before the goodbye."""
    agent = agent_of()
    started = asyncio.Event()

    @agent.on_message("work")
    async def work(subject: str, data: int) -> None:
        started.set()
        await asyncio.sleep(UNIT)
        await agent.publish("done", data)

    async with running(agent) as task:
        socket = await peer.socket()
        await until(lambda: bool(socket.channels))
        await socket.deliver("work", 1)
        await socket.deliver("work", 2)
        await started.wait()
        await agent.stop()
        await task
    await socket.ended.wait()
    kinds = [
        (command["type"], command.get("data", command.get("status"))) for command in socket.commands[-3:]
    ]
    assert kinds == [("publish", 1), ("publish", 2), ("presence", "offline")]


async def test_stopping_does_not_wait_for_ever(peer: Peer, agent_of: AgentMaker) -> None:
    """A handler that hangs is cancelled after the grace."""
    agent = agent_of(stop_grace=2 * UNIT)
    cancelled = asyncio.Event()
    started = asyncio.Event()

    @agent.on_message("work")
    async def hang(subject: str, data: int) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with running(agent) as task:
        socket = await peer.socket()
        await until(lambda: bool(socket.channels))
        await socket.deliver("work", 1)
        await started.wait()
        async with asyncio.timeout(PATIENCE):
            await agent.stop()
            await task
    assert cancelled.is_set()
    assert (await socket.wait_for("presence", 2))["status"] == "offline"


async def test_stopping_does_not_wait_for_what_has_not_begun(peer: Peer, agent_of: AgentMaker) -> None:
    """A handler whose subscription was refused has nothing to finish: the grace is not for it."""

    async def refuse(socket: PeerSocket, command: Command) -> bool:
        if command["type"] == "subscribe":
            await socket.send(type="error", code="not_found", message="no", id=command["id"])
            return True
        return False

    peer.hook = refuse
    agent = agent_of(stop_grace=1000 * UNIT)
    agent.on_message("nowhere")(lambda message: None)
    async with running(agent) as task:
        await (await peer.socket()).wait_for("unsubscribe")
        async with asyncio.timeout(PATIENCE):
            await agent.stop()
            await task


async def test_stopping_does_not_wait_for_what_was_taken_away(
    peer: Peer, agent_of: AgentMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is it for a handler whose subscription has ended, and is to be asked for again."""
    agent = agent_of(stop_grace=1000 * UNIT)
    agent.on_message("team")(lambda message: None)
    async with running(agent) as task:
        socket = await peer.socket()
        await until(lambda: bool(socket.channels))
        await socket.send(type="unsubscribed", channel="team", subject="team", reason="permission_denied")
        await until(lambda: "subscribing to team" in caplog.text)
        async with asyncio.timeout(PATIENCE):
            await agent.stop()
            await task


async def test_impatient_caller_does_not_cut_the_goodbye_short(peer: Peer, agent_of: AgentMaker) -> None:
    """Who gives up waiting for `stop` leaves the stopping as it is."""
    agent = agent_of()
    started = asyncio.Event()
    gate = asyncio.Event()
    finished = asyncio.Event()

    @agent.on_message("work")
    async def work(subject: str, data: int) -> None:
        started.set()
        await gate.wait()
        finished.set()

    async with running(agent) as task:
        socket = await peer.socket()
        await until(lambda: bool(socket.channels))
        await socket.deliver("work", 1)
        await started.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(agent.stop(), UNIT)
        gate.set()
        async with asyncio.timeout(PATIENCE):
            await task
    assert finished.is_set()
    assert socket.of_type("presence")[-1]["status"] == "offline"


async def test_handler_may_stop_the_agent(peer: Peer, agent_of: AgentMaker) -> None:
    """Stopping from inside does not wait for itself."""
    agent = agent_of()
    stopped = asyncio.Event()

    @agent.on_message("control")
    async def stop(subject: str, data: Any) -> None:
        await agent.stop()
        stopped.set()

    async with running(agent) as task:
        socket = await peer.socket()
        await until(lambda: bool(socket.channels))
        await socket.deliver("control", "stop")
        async with asyncio.timeout(PATIENCE):
            await task
    assert stopped.is_set()


async def test_agent_runs_again_after_it_was_stopped(peer: Peer, agent_of: AgentMaker) -> None:
    """Every run has a client of its own; running twice at once is an error."""
    agent = agent_of()
    seen: list[Any] = []
    agent.on_message("team")(lambda message: seen.append(message.data))

    async def run_once(number: int) -> None:
        async with running(agent):
            socket = await peer.socket(number)
            await until(lambda: bool(socket.channels))
            await socket.deliver("team", number)
            await until(lambda: seen[-1:] == [number])
            with pytest.raises(ClientClosed, match="running already"):
                await agent.run()

    await run_once(1)
    await run_once(2)
    await agent.stop()


async def test_cancelling_run_says_goodbye(peer: Peer, agent_of: AgentMaker) -> None:
    """A program that cancels its tasks leaves no agent behind that looks online."""
    agent = agent_of()
    async with running(agent) as task:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    socket = await peer.socket()
    await socket.ended.wait()
    assert socket.of_type("presence")[-1]["status"] == "offline"


def test_wrong_arguments_fail_at_once(key: AgentKey) -> None:
    """Not when the agent runs."""
    with pytest.raises(ConfigurationError, match="tenant_id"):
        HeartbeatAgent("a", private_key=key)
    with pytest.raises(ConfigurationError, match="private_key"):
        HeartbeatAgent("a", None, "t")
    with pytest.raises(ConfigurationError, match="server address"):
        HeartbeatAgent("a", None, "t", "example.com", private_key=key)
    with pytest.raises(ConfigurationError, match="must take"):
        HeartbeatAgent("a", None, "t", private_key=key).on_message("c")(lambda: None)
    for channel in ("", None, lambda message: None):
        # The last is what a decorator without its brackets gets: its function would never be called.
        with pytest.raises(ConfigurationError, match="on_message"):
            HeartbeatAgent("a", None, "t", private_key=key).on_message(channel)  # type: ignore[arg-type]


HANDLER = "def handle(message):\n    print(message.data, flush=True)\n"
PROGRAM = """
    import sys
    from artcafe_agent import HeartbeatAgent

    agent = HeartbeatAgent("agent-1", sys.argv[1], "acme", sys.argv[2])

    @agent.on_message("team")
    def handle(message):
        print(message.data, flush=True)

    agent.run_forever()
    print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_five_line_program_ends_politely(number: signal.Signals, peer: Peer, key_file: Path) -> None:
    """A real process: it handles a message, says goodbye at the signal, and ends without an error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-c",
        textwrap.dedent(PROGRAM),
        str(key_file),
        peer.url,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        async with asyncio.timeout(60):
            await until(lambda: bool(peer.sockets and peer.sockets[0].channels), 60)
            await peer.sockets[0].deliver("team", "hello")
            assert process.stdout is not None
            assert await process.stdout.readline() == b"hello\n"
            process.send_signal(number)
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (out, process.returncode) == (b"ended\n", 0)
    told = [line.split(" ", 2)[2] for line in err.decode().splitlines()]
    assert told == [f"INFO connected as {AGENT} to {peer.url}", f"INFO agent {AGENT}: stopped"]
    assert peer.sockets[0].of_type("presence")[-1]["status"] == "offline"


async def ended(program: str, *arguments: str) -> tuple[str, int | None]:
    """Run a program that ends by itself and return its stderr and exit status."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(program),
        *arguments,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        async with asyncio.timeout(60):
            _, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return err.decode(), process.returncode


async def test_missing_key_is_one_line(tmp_path: Path, peer: Peer) -> None:
    """A program whose key is not there ends with a line that names the file, not with a traceback."""
    file = tmp_path / "scout.key"
    line = f"agent {AGENT}: private key {file}: No such file or directory\n"
    assert await ended(PROGRAM, str(file), peer.url) == (line, 1)
    assert peer.sockets == []


async def test_refusal_is_one_line(tmp_path: Path, peer: Peer) -> None:
    """A program with another agent's key says once that it was refused, and ends."""
    file = tmp_path / "other.key"
    file.touch(mode=0o600)
    file.write_bytes(AgentKey.generate().private_bytes())
    err, status = await ended(PROGRAM, str(file), peer.url)
    assert err.count("the credentials were refused") == err.count("\n") == 1
    assert status == 1


async def test_log_of_the_program_is_left_alone(tmp_path: Path, peer: Peer, key_file: Path) -> None:
    """Where a program has set up logging, nothing is written beside it."""
    setup = "import logging, sys; logging.basicConfig(filename=sys.argv[3], level='INFO')"
    stopping = "async def handle(message):\n    await agent.stop()\n"
    program = f"{setup}\n{textwrap.dedent(PROGRAM)}".replace(HANDLER, stopping)
    file = tmp_path / "log"

    async def stop_it() -> None:
        await until(lambda: bool(peer.sockets and peer.sockets[0].channels), 60)
        await peer.sockets[0].deliver("team", "stop")

    result, _ = await asyncio.gather(ended(program, str(key_file), peer.url, str(file)), stop_it())
    assert result == ("", 0)
    assert f"connected as {AGENT} to {peer.url}" in file.read_text()


async def test_key_is_read_when_the_agent_runs(tmp_path: Path, key: AgentKey, agent_of: AgentMaker) -> None:
    """A key that is written after the agent was made is used; until then running says what is missing."""
    file = tmp_path / "late.key"
    agent = agent_of(private_key_path=file)
    with pytest.raises(KeyFormatError, match="No such file"):
        await agent.run(handle_signals=False)
    assert not agent.is_running
    file.touch(mode=0o600)
    file.write_bytes(key.private_bytes())
    async with running(agent):
        assert agent.get_connection_health()["is_healthy"]


HANGING = """
    import asyncio, signal, sys
    from artcafe_agent import HeartbeatAgent

    # Where the tests run in the background of a shell, SIGINT is ignored by whoever they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    agent = HeartbeatAgent("agent-1", sys.argv[1], "acme", sys.argv[2], stop_grace=1000.0)

    @agent.on_message("team")
    async def handle(message):
        print("hanging", flush=True)
        await asyncio.sleep(1000)

    agent.run_forever()
"""


async def test_second_interrupt_is_not_polite(peer: Peer, key_file: Path) -> None:
    """Whoever presses Ctrl-C again does not want to wait for a handler that hangs; the goodbye is said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(HANGING),
        str(key_file),
        peer.url,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        async with asyncio.timeout(60):
            await until(lambda: bool(peer.sockets and peer.sockets[0].channels), 60)
            await peer.sockets[0].deliver("team", 1)
            assert process.stdout is not None and process.stderr is not None
            assert await process.stdout.readline() == b"hanging\n"
            process.send_signal(signal.SIGINT)
            while b"stopping" not in (line := await process.stderr.readline()):
                assert line
            process.send_signal(signal.SIGINT)
            await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == -signal.SIGINT
    assert peer.sockets[0].of_type("presence")[-1]["status"] == "offline"
