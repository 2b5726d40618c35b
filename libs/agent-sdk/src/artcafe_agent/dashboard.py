"""The socket of people: watch a tenant as a dashboard does.

There is no background task: who iterates reads the socket, so a slow reader slows only itself, and the
server tells what it left out.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from artcafe_agent.address import ServerAddress
from artcafe_agent.connection import reason_of
from artcafe_agent.errors import QUOTA_MEMBERS, ArtcafeError, CommandError, UnexpectedAnswer
from artcafe_agent.opening import next_frame, open_socket
from artcafe_agent.states import ConnectionMachine, ReconnectPolicy, StateChange, Stop

PING_INTERVAL_SECONDS = 20.0

DashboardEvent = dict[str, Any]


class DashboardFeed:
    """The events of a dashboard socket over all its breaks.

    ``commands`` are sent on each connection; a refusal of one of them ends the feed, unless it may pass by
    itself.
    """

    def __init__(
        self,
        address: ServerAddress,
        token: str,
        tenant_id: str | None,
        commands: Sequence[Mapping[str, Any]],
        *,
        policy: ReconnectPolicy | None = None,
        timeout: float = 10.0,
        tls: ssl.SSLContext | None = None,
        on_state_change: Callable[[StateChange], None] = lambda change: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._token = token
        self._tenant_id = tenant_id
        self._commands = {f"setup-{number}": dict(each) for number, each in enumerate(commands, 1)}
        self._machine = ConnectionMachine(policy or ReconnectPolicy(), on_state_change)
        self._timeout = timeout
        self._tls = tls
        self._clock = clock

    async def events(self) -> AsyncIterator[DashboardEvent]:
        """Yield events, `connected` first after each connection; close the iterator to leave.

        Raises:
            ArtcafeError: The server refused, or does not want us back.
        """
        machine = self._machine
        machine.start(self._clock())
        while True:
            try:
                socket = await self._open()
                try:
                    async for event in self._read(socket):
                        yield event
                finally:
                    await socket.close()
            except ArtcafeError as error:
                decision = machine.lost(error, self._clock())
                if isinstance(decision, Stop):
                    raise
                await asyncio.sleep(decision.delay)
                machine.retry()

    async def _open(self) -> ClientConnection:
        headers = {"Authorization": f"Bearer {self._token}"}
        if self._tenant_id is not None:
            headers["X-Tenant-Id"] = self._tenant_id
        return await open_socket(
            self._address.socket("dashboard"),
            timeout=self._timeout,
            headers=headers,
            tls=self._tls,
            ping_interval=PING_INTERVAL_SECONDS,
        )

    async def _read(self, socket: ClientConnection) -> AsyncIterator[DashboardEvent]:
        first = _decode(await next_frame(socket, self._timeout))
        if first.get("type") == "error":
            # The reason in words; the close that follows says what to do.
            await next_frame(socket, self._timeout)
        if first.get("type") != "connected":
            raise UnexpectedAnswer("the server did not begin with connected")
        try:
            for identifier, command in self._commands.items():
                await socket.send(msgspec.json.encode({**command, "id": identifier}).decode())
            self._machine.opened(self._clock())
            yield first
            while True:
                event = _decode(await socket.recv(decode=False))
                if event.get("type") == "error" and event.get("id") in self._commands:
                    raise _refusal(event, self._commands[event["id"]])
                yield event
        except ConnectionClosed as closed:
            raise reason_of(closed) from None


def _decode(frame: bytes) -> DashboardEvent:
    try:
        event = msgspec.json.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError):
        event = None
    if not isinstance(event, dict):
        raise UnexpectedAnswer("the server sent a frame that is no event")
    return event


def _refusal(event: DashboardEvent, command: Mapping[str, Any]) -> CommandError:
    return CommandError(
        str(event.get("code", "internal")),
        str(event.get("message", "")),
        str(command.get("type", "")),
        float(event.get("retry_after") or 0.0),
        {name: event[name] for name in QUOTA_MEMBERS if name in event},
    )
