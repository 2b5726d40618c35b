"""Commands in order, and what becomes of them when a client goes."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from gateway_fakes import FakeBus, FakeClock, FakeTransport, connect, settle

from artcafe_common.bus import Bus
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_gateway.background import Background
from artcafe_gateway.connection import End
from artcafe_gateway.directory import Directory
from artcafe_gateway.session import BACKLOG_PAUSE, COMMANDS_BURST, Session, Work


class Echo(Session):
    """A session whose commands are numbers; one that ends in ``w`` waits. What was done is kept."""

    def __init__(self, transport: FakeTransport, clock: FakeClock, bus: FakeBus) -> None:
        connection, _ = connect()
        super().__init__(connection, "t", Directory(cast(Bus, bus), clock), clock, Background())
        self.transport = transport
        self.gate = asyncio.Event()
        self.done: list[str] = []

    def handle(self, payload: bytes) -> Work | None:
        """Do a command."""
        command = payload.decode()
        if command == "bug":
            raise RuntimeError("secret")
        if command == "no":
            raise ServiceError(ErrorCode.NOT_FOUND, "nothing")
        if command.endswith("w"):
            return self.answer(self._wait(command), command)
        self.done.append(command)
        return None

    async def _wait(self, command: str) -> None:
        await self.gate.wait()
        if command == "failw":
            raise ServiceError(ErrorCode.UNAVAILABLE, "away")
        if command == "bugw":
            raise RuntimeError("secret")
        self.done.append(command)


@pytest.fixture
async def session(clock: FakeClock, bus: FakeBus) -> Echo:
    """Give a session on a fake connection."""
    connection, transport = connect()
    session = Echo(transport, clock, bus)
    session.connection = connection
    connection.peer = session
    return session


def say(session: Echo, *commands: str) -> None:
    """Let the client send commands."""
    for command in commands:
        session.on_text(command.encode())


async def test_a_command_that_waits_keeps_the_order(session: Echo) -> None:
    """What comes behind a slow command is done after it."""
    say(session, "1", "2w", "3", "4w", "5")
    await settle()
    assert session.done == ["1"]
    session.gate.set()
    await settle()
    assert session.done == ["1", "2w", "3", "4w", "5"]


async def test_what_piles_up_behind_a_slow_command_pauses_reading(session: Echo) -> None:
    """The socket is read no more at the bound, and again when half of it is done."""
    say(session, "0w", *map(str, range(1, BACKLOG_PAUSE)))
    reading = [session.transport.reading]
    say(session, str(BACKLOG_PAUSE))
    reading.append(session.transport.reading)
    session.gate.set()
    await settle()
    assert [*reading, session.transport.reading] == [True, False, True]
    assert session.done == ["0w", *map(str, range(1, BACKLOG_PAUSE + 1))]


async def test_a_command_that_fails_is_answered_and_the_next_is_done(session: Echo) -> None:
    """Errors of all kinds leave the session working; a bug is told as internal without detail."""
    session.gate.set()
    say(session, "no", "failw", "bug", "bugw", "1")
    await settle()
    answers = [(event["code"], event.get("id")) for event in session.transport.events]
    assert answers == [
        ("not_found", None),
        ("unavailable", "failw"),
        ("internal", None),
        ("internal", "bugw"),
    ]
    assert b"secret" not in session.transport.written
    assert session.done == ["1"]


async def test_text_that_is_not_utf8_closes(session: Echo) -> None:
    """Invalid UTF-8 ends the socket with 1007 and reaches nobody."""
    session.on_text(b'{"type":"\xff"}')
    assert session.transport.close_codes == [1007]
    assert session.done == []


async def test_a_client_that_left_is_done_with_what_it_sent(session: Echo) -> None:
    """A command in progress and those behind it are not given up because the socket has ended."""
    say(session, "1w", "2")
    await settle()
    session.connection.lost()
    session.gate.set()
    await settle()
    assert session.done == ["1w", "2"]


@pytest.mark.parametrize(
    ("end", "plain", "answered"),
    [(None, True, True), ("client", True, True), ("restart", True, False), ("refused", False, False)],
)
async def test_which_publishes_are_taken_depends_on_who_ended(
    session: Echo, end: End | None, plain: bool, answered: bool
) -> None:
    """Of a refused client none, at a restart those that the client will not repeat, else all."""
    session.connection.end = end
    assert session.takes_publish(False) is plain
    assert session.takes_publish(True) is answered


async def test_a_flood_of_commands_closes_the_connection(session: Echo, clock: FakeClock) -> None:
    """A burst is allowed, then only the rate; beyond it the close says so."""
    for _ in range(int(COMMANDS_BURST)):
        session.spend_command()
    assert not session.connection.closing
    clock.move(0.01)
    session.spend_command()
    session.spend_command()
    session.spend_command()
    assert session.transport.close_codes == [4004]


async def test_garbage_costs_like_commands(session: Echo, clock: FakeClock, bus: FakeBus) -> None:
    """A client cannot have errors rendered without end."""

    class Strict(Echo):
        def handle(self, payload: bytes) -> Work | None:
            from artcafe_gateway.frames import agent_decoder

            agent_decoder.decode(payload)
            return None

    strict = Strict(session.transport, clock, bus)
    strict.connection = session.connection
    for _ in range(int(COMMANDS_BURST) + 1):
        strict.on_text(b"{")
    assert session.transport.close_codes == [4004]


async def test_work_begun_by_the_session_comes_before_commands(session: Echo) -> None:
    """What a session does on its own at the start delays the client's first command."""
    begun = asyncio.Event()

    async def prepare() -> None:
        await begun.wait()
        session.done.append("prepared")

    session.begin(prepare())
    say(session, "1")
    await settle()
    assert session.done == []
    begun.set()
    await settle()
    assert session.done == ["prepared", "1"]
