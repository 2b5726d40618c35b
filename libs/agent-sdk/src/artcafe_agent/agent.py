"""An agent in five lines: handlers by decorator, and a connection that is seen and keeps itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from artcafe_agent.client import Client
from artcafe_agent.connection import utc_text
from artcafe_agent.errors import (
    ArtcafeError,
    ClientClosed,
    CommandError,
    ConfigurationError,
    KeyFormatError,
    NotConnected,
    OutcomeUnknown,
)
from artcafe_agent.handlers import Handler, HandlerFunction
from artcafe_agent.keys import AgentKey
from artcafe_agent.protocol import Presence, Published
from artcafe_agent.signals import on_stop_signal
from artcafe_agent.states import ReconnectPolicy
from artcafe_agent.subscription import Message, Subscription

logger = logging.getLogger("artcafe_agent.agent")

STOP_GRACE_SECONDS = 5.0  # for handlers to finish what was received
QUIET_SECONDS = 1.0  # of it, before a person is told what is waited for
GOODBYE_TIMEOUT_SECONDS = 2.0
REFUSED_RETRY_SECONDS = 30.0  # until a refused subscription is asked for again


class HeartbeatAgent:
    """An agent that handles messages until it is stopped.

        agent = HeartbeatAgent(agent_id="greeter", private_key_path="greeter.key", organization_id="acme")

        @agent.on_message("team.updates")
        async def greet(subject, data):
            await agent.publish("team.replies", {"hello": data["name"]})

        agent.run_forever()

    Each handler gets its messages one after the other, in order; handlers run beside each other. One that
    raises is logged and goes on with the next message. A plain function runs on the event loop, so it must
    be short; do blocking work in an ``async def`` with `asyncio.to_thread`.

    Args:
        agent_id: The agent.
        private_key_path: File of its private key, which must be there when the agent runs; or give
            ``private_key``.
        organization_id: The organisation (tenant).
        websocket_url: ``ws``, ``wss``, ``http`` or ``https`` address of the server, with or without the
            path of its sockets; default is the environment's ARTCAFE_SERVER.
        heartbeat_interval: Seconds; the server's own interval is used where it is shorter.
        auto_reconnect: Keep trying: for the first connection, and after each break.
        capabilities: Stated in the agent's presence.
        metadata: Stated in the agent's presence.
        heartbeat_timeout_multiplier: After so many intervals without acknowledgement the connection is
            given up and made anew.
        private_key: The key itself, or the text of its file.
        take_over: Come back when a newer connection of the same agent took over. Only for one process that
            must win: two such processes displace each other for ever.
        stop_grace: Seconds that handlers get to finish what was received when the agent stops.
        tls: For a private certificate authority or client certificates.

    Raises:
        ConfigurationError: An argument is wrong. That a key cannot be used is told when the agent runs.
    """

    def __init__(
        self,
        agent_id: str,
        private_key_path: str | os.PathLike[str] | None = None,
        organization_id: str = "",
        websocket_url: str | None = None,
        heartbeat_interval: float = 30.0,
        auto_reconnect: bool = True,
        capabilities: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        heartbeat_timeout_multiplier: float = 2.0,
        private_key: AgentKey | bytes | str | None = None,
        take_over: bool = False,
        stop_grace: float = STOP_GRACE_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.agent_id = agent_id
        self.organization_id = organization_id
        self.capabilities = list(capabilities or ())
        self.metadata = dict(metadata or {})
        self.heartbeat_interval = heartbeat_interval
        self.auto_reconnect = auto_reconnect
        self.stop_grace = stop_grace
        self._multiplier = heartbeat_timeout_multiplier
        self._take_over = take_over
        self._handlers: list[Handler] = []
        self._subscriptions: dict[Handler, Subscription] = {}
        self._serving: dict[Handler, asyncio.Task[None]] = {}
        self._stopping: asyncio.Task[None] | None = None
        self._running = False
        self._new_client: Callable[[], Client] = lambda: Client(
            base_url=websocket_url,
            tenant_id=organization_id,
            agent_id=agent_id,
            private_key_path=private_key_path,
            private_key=private_key,
            reconnect=self._policy(),
            heartbeat_interval=self.heartbeat_interval,
            intervals_without_ack=self._multiplier,
            presence=self._presence("online"),
            tls=tls,
        )
        # Made now, so that a wrong argument is an error here and not when the agent runs. The key's file may
        # come later, and `run_forever` has a better way to say that it is missing.
        self._made: Client | None = None
        with contextlib.suppress(KeyFormatError):
            self._made = self._new_client()

    @property
    def tenant_id(self) -> str:
        """The organisation, under its other name."""
        return self.organization_id

    @property
    def client(self) -> Client:
        """The client underneath, for what this class does not offer.

        Raises:
            KeyFormatError: The agent's key cannot be used.
        """
        if self._made is None:
            self._made = self._new_client()
        return self._made

    @property
    def is_running(self) -> bool:
        """Whether `run` is running."""
        return self._running

    def on_message(self, channel: str) -> Callable[[HandlerFunction], HandlerFunction]:
        """Register the decorated function for a channel, or a pattern with ``*`` and a last ``>``.

        It takes ``(subject, data)`` or one `Message`, and is plain or async. Several functions may be
        registered for one channel: each gets every message. Registering while the agent runs subscribes
        at once.

        Raises:
            ConfigurationError: ``channel`` is no name, as when the decorator is written without its brackets.
        """
        if not channel or not isinstance(channel, str):
            raise ConfigurationError('write @agent.on_message("a.channel"): a channel is a string, not empty')

        def register(function: HandlerFunction) -> HandlerFunction:
            handler = Handler(channel, function)
            self._handlers.append(handler)
            if self._running:
                self._serve_in_task(handler)
            return function

        return register

    async def publish(
        self, channel: str, data: Any, *, wait: bool = True, timeout: float | None = None
    ) -> Published | None:
        """Publish a message: any JSON value. While the connection is away this waits for it.

        Raises:
            CommandError: The server refused it.
            NotConnected: There was no connection within ``timeout`` seconds; it was not sent.
            ConnectionLost: The connection broke meanwhile; whether it was published is unknown.
            AckTimeout: No acknowledgement came in time; likewise.
        """
        return await self.client.publish(channel, data, wait=wait, timeout=timeout)

    async def run(self, *, handle_signals: bool = True) -> None:
        """Connect and handle messages until `stop` is called.

        In the main thread SIGINT and SIGTERM stop the agent too, unless ``handle_signals`` is false. If it is
        cancelled while it stops, as by a second Ctrl-C under `asyncio.run`, it waits for no handler any more.

        Raises:
            StoppedError: The server does not want this agent back; the type says why.
            KeyFormatError: The agent's key cannot be used.
            ArtcafeError: The connection is away and ``auto_reconnect`` is off.
        """
        if self._running:
            raise ClientClosed("the agent is running already")
        if self.client.error is not None:
            self._made = self._new_client()
        self._running = True
        self._stopping = None
        signals = on_stop_signal(self._request_stop) if handle_signals else contextlib.nullcontext()
        try:
            with signals:
                await self._run()
        except asyncio.CancelledError:
            self._stop_waiting()
            raise
        finally:
            await self.stop()
            await _finish(set(self._serving.values()), timeout=0.0)
            self._serving.clear()
            self._running = False

    def run_forever(self) -> None:
        """Run until stopped: the whole of a program that is an agent and nothing else.

        Where the program has not set up logging, what happens to the connection is written to stderr. What
        ends the agent is one line there and exit status 1; a program that handles it calls `run`.

        Raises:
            SystemExit: `run` raised an `ArtcafeError`, which is its cause.
        """
        with _log_on_stderr():
            try:
                asyncio.run(self.run())
            except ArtcafeError as error:
                told = self._made is not None and error is self._made.error  # in the log already
                raise SystemExit(1 if told else f"agent {self.agent_id}: {error}") from error

    async def stop(self) -> None:
        """Finish what was received (within ``stop_grace`` seconds), say goodbye and close.

        May be called from a handler, and more than once.
        """
        if not self._running:
            return
        self._request_stop()
        assert self._stopping is not None
        # Shielded: a second caller that gives up must not cut the goodbye short.
        await asyncio.shield(self._stopping)

    def get_connection_health(self) -> dict[str, Any]:
        """Return the state of the connection, ready to be published as JSON.

        Times are RFC 3339 UTC; ``seconds_since_ack`` is None before the first acknowledgement.
        ``healthy`` is ``is_healthy`` under the name that older agents read.
        """
        beats = self.client.heartbeats
        traffic = self.client.traffic
        now = time.monotonic()
        alive = self.client.is_online and beats is not None and not beats.is_dead(now)
        acknowledged = beats.last_acknowledged if beats is not None else None
        return {
            "state": str(self.client.state),
            "is_healthy": alive,
            "healthy": alive,
            "last_heartbeat": _wall_time(beats.last_sent if beats is not None else None, now),
            "last_heartbeat_ack": _wall_time(acknowledged, now),
            "seconds_since_ack": round(now - acknowledged, 3) if acknowledged is not None else None,
            "connection_id": traffic.connection_id or None,
            "server_id": traffic.server_id or None,
            "connected_at": utc_text(traffic.connected_at) if traffic.connected_at is not None else None,
            "reconnects": self.client.reconnects,
            "messages_sent": traffic.messages_sent,
            "messages_received": traffic.messages_received,
        }

    async def _run(self) -> None:
        try:
            await self.client.connect()
            for handler in self._handlers:
                self._serve_in_task(handler)
            await self.client.wait_closed()
        except ClientClosed:
            if self._stopping is None:
                raise

    def _serve_in_task(self, handler: Handler) -> None:
        if handler not in self._serving:
            name = f"artcafe-handler-{handler.pattern}"
            self._serving[handler] = asyncio.create_task(self._serve(handler), name=name)

    async def _serve(self, handler: Handler) -> None:
        """Feed one handler until the agent stops; a refused subscription is asked for again now and then."""
        while self._stopping is None:
            try:
                subscription = await self.client.subscribe(handler.pattern)
                self._subscriptions[handler] = subscription
                async for message in subscription:
                    await _handle(handler, message)
                return
            except (NotConnected, OutcomeUnknown) as problem:
                logger.warning("subscribing to %s: %s", handler.pattern, problem)
            except CommandError as refusal:
                logger.error("subscribing to %s: %s", handler.pattern, refusal)
                # It has none now: a stop must not wait for it.
                self._subscriptions.pop(handler, None)
                await asyncio.sleep(REFUSED_RETRY_SECONDS)
            except ArtcafeError:
                return  # the client has ended: run() tells why
            finally:
                self._subscriptions.pop(handler, None)

    def _request_stop(self) -> None:
        if self._stopping is None:
            caller = asyncio.current_task()
            self._stopping = asyncio.create_task(self._shut_down(caller), name="artcafe-stop")

    async def _shut_down(self, caller: asyncio.Task[Any] | None) -> None:
        for handler, task in self._serving.items():
            if handler in self._subscriptions:
                self._subscriptions[handler].end()
            else:
                task.cancel()  # it waits for its subscription
        # A handler that stops the agent is not waited for: it waits for us.
        busy = {task for task in self._serving.values() if task is not caller}
        quiet = min(QUIET_SECONDS, self.stop_grace)
        if busy:
            _, busy = await asyncio.wait(busy, timeout=quiet)
        if busy and quiet < self.stop_grace:
            logger.info("stopping: %d handlers have up to %g seconds to finish", len(busy), self.stop_grace)
        await _finish(busy, self.stop_grace - quiet)
        if self.client.is_online:
            try:
                await self.client.presence("offline", timeout=GOODBYE_TIMEOUT_SECONDS)
            except ArtcafeError as problem:
                logger.info("the goodbye was not acknowledged: %s", problem)
        await self.client.close()

    def _stop_waiting(self) -> None:
        """Where the agent is stopping, give up what handlers still do."""
        if self._stopping is not None:
            for task in self._serving.values():
                task.cancel()

    def _policy(self) -> ReconnectPolicy:
        patience = None if self.auto_reconnect else 0.0
        return ReconnectPolicy(
            enabled=self.auto_reconnect, take_over=self._take_over, startup_patience=patience
        )

    def _presence(self, status: str) -> Presence:
        return Presence(status=status, capabilities=self.capabilities or None, metadata=self.metadata or None)


@contextlib.contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Write this package's log to stderr, from INFO on, unless the program has a place for it."""
    package = logging.getLogger("artcafe_agent")
    if package.hasHandlers():
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = package.level
    package.addHandler(handler)
    package.setLevel(level or logging.INFO)
    try:
        yield
    finally:
        package.setLevel(level)
        package.removeHandler(handler)


async def _handle(handler: Handler, message: Message) -> None:
    try:
        await handler(message)
    except Exception:
        logger.exception("the handler of %s raised; the agent goes on", handler.pattern)


async def _finish(tasks: set[asyncio.Task[None]], timeout: float) -> None:
    """Wait for tasks, cancel those that are not done in time, and wait for their end."""
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=timeout)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late)


def _wall_time(moment: float | None, now: float) -> str | None:
    """Return a monotonic time as RFC 3339 UTC."""
    if moment is None:
        return None
    return utc_text(datetime.now(UTC) - timedelta(seconds=now - moment))
