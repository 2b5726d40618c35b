"""The asyncio client of an agent: publish, subscribe, presence, and a connection that keeps itself."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from artcafe_agent.address import ServerAddress, check_id, default_server
from artcafe_agent.errors import (
    ClientClosed,
    CommandError,
    ConfigurationError,
    ConnectionLost,
)
from artcafe_agent.keeper import ConnectionKeeper, Identity, Timing, Traffic
from artcafe_agent.keys import AgentKey
from artcafe_agent.protocol import Presence, Publish, Published, Subscribe, Subscribed
from artcafe_agent.states import ConnectionState, Heartbeats, ReconnectPolicy, StateChange
from artcafe_agent.subscription import DEFAULT_QUEUE_SIZE, Overflow, Subscription

DEFAULT_COMMAND_TIMEOUT_SECONDS = 10.0
DEFAULT_CONNECT_TIMEOUT_SECONDS = 10.0


class Client:
    """One agent's connection to ArtCafe PubSub.

        async with Client(base_url="https://pubsub.example.com", tenant_id="acme", agent_id="a1",
                          private_key_path="~/.ssh/a1") as client:
            await client.publish("team.updates", {"text": "hello"})
            async for message in await client.subscribe("team.updates"):
                print(message.sender, message.data)

    After a break it reconnects by itself (see `ReconnectPolicy`), with a fresh challenge each time, and
    restores its presence and subscriptions before anything else is sent. A client is used once: after
    `close` make a new one.

    Args:
        base_url: ``http``, ``https``, ``ws`` or ``wss``; default is the environment's ARTCAFE_SERVER.
        tenant_id: The organisation.
        agent_id: The agent.
        private_key_path: File of the private key; give this or ``private_key``.
        private_key: The key itself, or the text of its file.
        private_key_password: Of an encrypted key.
        reconnect: What to do when the connection cannot be made or breaks.
        heartbeat_interval: Seconds; only ever shortens what the server asks for.
        intervals_without_ack: After so many heartbeat intervals of silence the connection is dead.
        command_timeout: Seconds to wait for a connection and an answer, where a call gives no other.
        connect_timeout: Seconds for each step of connecting.
        presence: Stated at once on each connection, until `presence` states another.
        heartbeat_metrics: Called for each heartbeat; what it returns goes along.
        on_state_change: Called with each `StateChange`, on the event loop: it must not block.
        on_error: Called with each refusal that no caller waits for, such as of a ``publish(wait=False)``.
        tls: For a private certificate authority or client certificates.

    Raises:
        ConfigurationError: An argument is wrong, or the key cannot be used.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        tenant_id: str,
        agent_id: str,
        private_key_path: str | os.PathLike[str] | None = None,
        private_key: AgentKey | bytes | str | None = None,
        private_key_password: str | None = None,
        reconnect: ReconnectPolicy | None = None,
        heartbeat_interval: float | None = None,
        intervals_without_ack: float = 2.0,
        command_timeout: float = DEFAULT_COMMAND_TIMEOUT_SECONDS,
        connect_timeout: float = DEFAULT_CONNECT_TIMEOUT_SECONDS,
        presence: Presence | None = None,
        heartbeat_metrics: Callable[[], dict[str, Any]] | None = None,
        on_state_change: Callable[[StateChange], None] | None = None,
        on_error: Callable[[CommandError], None] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        identity = Identity(
            ServerAddress.parse(base_url or default_server()),
            check_id(tenant_id, "tenant_id"),
            check_id(agent_id, "agent_id"),
            _key(private_key_path, private_key, private_key_password),
            tls,
        )
        timing = Timing(command_timeout, connect_timeout, heartbeat_interval, intervals_without_ack)
        self._keeper = ConnectionKeeper(
            identity, timing, reconnect or ReconnectPolicy(), metrics=heartbeat_metrics
        )
        self._keeper.presence = presence
        self._command_timeout = command_timeout
        if on_state_change is not None:
            self._keeper.state_listeners.append(on_state_change)
        if on_error is not None:
            self._keeper.error_listeners.append(on_error)

    @property
    def tenant_id(self) -> str:
        """The organisation."""
        return self._keeper.identity.tenant_id

    @property
    def agent_id(self) -> str:
        """The agent."""
        return self._keeper.identity.agent_id

    @property
    def address(self) -> ServerAddress:
        """The server."""
        return self._keeper.identity.address

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        return self._keeper.machine.state

    @property
    def is_online(self) -> bool:
        """Whether a command would be sent at once."""
        return self._keeper.ready is not None and self._keeper.ready.is_open

    @property
    def error(self) -> Exception | None:
        """Why the client ended, if it did."""
        return self._keeper.end

    @property
    def reconnects(self) -> int:
        """How often the connection came back."""
        return max(0, self._keeper.machine.connections - 1)

    @property
    def traffic(self) -> Traffic:
        """Counts of messages, and the latest connection."""
        return self._keeper.traffic

    @property
    def heartbeats(self) -> Heartbeats | None:
        """The heartbeats of the open connection."""
        link = self._keeper.link
        return link.heartbeats if link is not None else None

    @property
    def limits(self) -> dict[str, Any]:
        """The organisation's limits, as the server told them on the open connection."""
        link = self._keeper.link
        return link.welcome.limits if link is not None else {}

    def on_state_change(self, listener: Callable[[StateChange], None]) -> Callable[[StateChange], None]:
        """Call a function on each state change; usable as a decorator."""
        self._keeper.state_listeners.append(listener)
        return listener

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connect, and return when the first connection is usable.

        Raises:
            StoppedError: The server refused for good.
            ArtcafeError: It did not succeed within the policy's ``startup_patience``.
        """
        self._keeper.start()
        try:
            await self._keeper.connection(None)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection and end every subscription. Closing twice is harmless."""
        await self._keeper.stop()

    async def wait_closed(self) -> None:
        """Wait until the client has ended.

        Raises:
            ArtcafeError: It ended by itself: the server does not want it back, or the policy gave up.
        """
        await self._keeper.wait_ended()
        end = self._keeper.end
        if end is not None and not isinstance(end, ClientClosed):
            raise end

    async def publish(
        self, channel: str, data: Any, *, wait: bool = True, timeout: float | None = None, echo: bool = True
    ) -> Published | None:
        """Publish a message: any JSON value (NaN and infinities become null).

        Waits for the server's acknowledgement, or only until it is handed to the system with ``wait=False``
        (a refusal then goes to ``on_error``). With ``echo=False`` it does not come back to this client's own
        subscriptions. Nothing is ever sent twice.

        Raises:
            CommandError: The server refused it.
            NotConnected: There was no connection within ``timeout`` seconds; it was not sent.
            ConnectionLost: The connection broke meanwhile; whether it was published is unknown.
            AckTimeout: No acknowledgement came in time; likewise.
            TypeError: ``data`` cannot be written as JSON.
        """
        limit = self._command_timeout if timeout is None else timeout
        command = Publish(channel=_channel(channel), data=data, echo=echo)
        deadline = time.monotonic() + limit
        link = await self._keeper.connection(limit)
        if not wait:
            await link.send(command)
            self.traffic.messages_sent += 1
            return None
        answer = await link.ask(command, deadline - time.monotonic())
        self.traffic.messages_sent += 1
        return answer if isinstance(answer, Published) else Published(channel=channel)

    async def subscribe(
        self,
        *channels: str,
        queue_size: int = DEFAULT_QUEUE_SIZE,
        overflow: Overflow = "drop_oldest",
        timeout: float | None = None,
    ) -> Subscription:
        """Subscribe to channels, or to patterns with ``*`` (one token) and a last ``>`` (all that follow).

        After a reconnection the subscription goes on; what was published meanwhile is not received.

        Raises:
            CommandError: The server refused one of them; then none is subscribed.
            NotConnected: There was no connection within ``timeout`` seconds.
            AckTimeout: No acknowledgement came in time.
        """
        if not channels:
            raise ConfigurationError("name at least one channel")
        names = tuple(dict.fromkeys(_channel(each) for each in channels))
        subscription = Subscription(names, self._unsubscribe, queue_size, overflow)
        for name in names:
            self._keeper.routes.add(name, subscription)
        limit = self._command_timeout if timeout is None else timeout
        try:
            outcomes = await asyncio.gather(
                *(self._subscribe(name, limit) for name in names), return_exceptions=True
            )
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
        except BaseException:
            subscription.end()
            # Who gave up, or was refused, does not wait for these answers too.
            await self._unsubscribe(subscription, 0.0)
            raise
        return subscription

    async def presence(
        self,
        status: str,
        *,
        capabilities: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> None:
        """State this agent's presence; it is stated again after each reconnection.

        Raises:
            CommandError: The server refused it.
            NotConnected: There was no connection within ``timeout`` seconds.
            OutcomeUnknown: No acknowledgement came.
        """
        limit = self._command_timeout if timeout is None else timeout
        stated = Presence(status=status, capabilities=capabilities, metadata=metadata)
        link = await self._keeper.connection(limit)
        self._keeper.presence = stated
        await link.ask(stated, limit)

    async def _subscribe(self, name: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            link = await self._keeper.connection(deadline - time.monotonic())
            try:
                answer = await link.ask(Subscribe(channel=name), deadline - time.monotonic())
            except ConnectionLost:
                continue  # subscribing twice does no harm
            if isinstance(answer, Subscribed):
                self._keeper.routes.confirm(name, answer.channel, answer.subject)
            return

    async def _unsubscribe(self, subscription: Subscription, timeout: float | None = None) -> None:
        orphans = self._keeper.routes.remove(subscription)
        link = self._keeper.ready
        if link is not None:
            limit = self._command_timeout if timeout is None else timeout
            # All at once: while one after the other is answered, somebody may subscribe to the next again.
            await asyncio.gather(*(link.leave(name, limit) for name in orphans))


def _channel(name: str) -> str:
    if not name or not isinstance(name, str):
        raise ConfigurationError("a channel's name is a string that is not empty")
    return name


def _key(
    path: str | os.PathLike[str] | None, key: AgentKey | bytes | str | None, password: str | None
) -> AgentKey:
    if (path is None) == (key is None):
        raise ConfigurationError("give either private_key_path or private_key")
    if isinstance(key, AgentKey):
        return key
    if key is not None:
        return AgentKey.from_bytes(key, password)
    assert path is not None
    return AgentKey.load(path, password)
