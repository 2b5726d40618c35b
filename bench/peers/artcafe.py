"""ArtCafe PubSub itself: the whole embedded stack, with real agents, keys, grants, envelopes and metering."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from artcafe_devstack.devstack import DevStack
from bench.loadgen.wire import PONG, UPGRADED, SocketPlan, client_frame, message_data, upgrade
from bench.platform import Platform

# The rate of challenges from one address is the one limit that a load generator is not a customer for.
_ENVIRONMENT = {"auth": {"AUTH_ADDRESS_RATE": "0"}}
_HEARTBEAT = client_frame(b'{"type":"heartbeat"}')


class ArtCafe:
    """A running stack with two gateways; publishers and receivers use the first unless told otherwise.

    The stand-in for DynamoDB is charged nowhere.
    """

    name = "artcafe"
    title = "ArtCafe PubSub"

    def __init__(self, stack: DevStack) -> None:
        self._stack = stack
        self._spare: list[str] = []
        demo, urls = stack.demo, stack.urls
        self.platform = Platform(
            urls["auth"]["http"], urls["registry"]["http"], demo["email"], demo["password"]
        )
        self.platform.sign_in()

    @property
    def serving(self) -> dict[str, int]:
        """What a message passes through."""
        return self.pids("gateway-1", "nats")

    @property
    def beside(self) -> dict[str, int]:
        """The rest of the system."""
        return self.pids("auth", "registry", "metering", "valkey", "gateway-2")

    def pids(self, *names: str) -> dict[str, int]:
        """Return the ids of processes by their names in the stack."""
        pids = self._stack.pids
        return {name: pids[name] for name in names}

    def provision(self, count: int) -> None:
        """Register agents ahead of their use."""
        missing = count - len(self._spare)
        if missing > 0:
            self._spare += self.platform.make_agents(missing)

    def publisher(self, channel: str, gateway: str = "gateway-1") -> SocketPlan:
        """Return an agent that publishes."""
        message = b'{"type":"publish","channel":%b,"data":%b}' % (
            msgspec.json.encode(channel),
            message_data(),
        )
        return self._sockets(1, gateway, b"", b'"welcome"', client_frame(message))[0]

    def receivers(self, channel: str, count: int, gateway: str = "gateway-1") -> list[SocketPlan]:
        """Return agents with one subscription each."""
        subscribe = msgspec.json.encode({"type": "subscribe", "channel": channel})
        return self._sockets(count, gateway, client_frame(subscribe), b'"subscribed"', b"")

    def dashboards(self, count: int, *, deaf: int, gateway: str = "gateway-1") -> list[SocketPlan]:
        """Return dashboards that preview everything, some of them `deaf`: they never read it."""
        host, port = self._address(gateway)
        opening = upgrade(host, port, self.platform.dashboard_target())
        watch = client_frame(b'{"type":"subscribe_topic_preview"}')
        return [
            SocketPlan(
                host=host,
                port=port,
                opening=opening,
                opened=UPGRADED,
                hello=watch,
                ready=b'"subscription_confirmed"',
                keepalive=client_frame(b"", PONG) if number >= deaf else b"",
                reads=number >= deaf,
            )
            for number in range(count)
        ]

    def _address(self, gateway: str) -> tuple[str, int]:
        host, _, port = self._stack.urls[gateway]["ws"].removeprefix("ws://").partition(":")
        return host, int(port)

    def _sockets(
        self, count: int, gateway: str, hello: bytes, ready: bytes, publish: bytes
    ) -> list[SocketPlan]:
        self.provision(count)
        agents, self._spare = self._spare[:count], self._spare[count:]
        host, port = self._address(gateway)
        return [
            SocketPlan(
                host=host,
                port=port,
                opening=upgrade(host, port, target),
                opened=UPGRADED,
                hello=hello,
                ready=ready,
                publish=publish,
                # The generator decodes nothing, so it answers pings unasked; heartbeats are due anyway.
                keepalive=client_frame(b"", PONG) + _HEARTBEAT,
            )
            for target in self.platform.socket_targets(agents)
        ]


class AcrossGateways:
    """The same stack with its publishers on the first gateway and its receivers on the second."""

    name = "artcafe"
    title = "ArtCafe PubSub, two gateways"

    def __init__(self, platform: ArtCafe) -> None:
        self._platform = platform

    @property
    def serving(self) -> dict[str, int]:
        """What a message passes through."""
        return self._platform.pids("gateway-1", "nats", "gateway-2")

    @property
    def beside(self) -> dict[str, int]:
        """The rest of the system."""
        return self._platform.pids("auth", "registry", "metering", "valkey")

    def publisher(self, channel: str) -> SocketPlan:
        """Return an agent that publishes."""
        return self._platform.publisher(channel)

    def receivers(self, channel: str, count: int) -> list[SocketPlan]:
        """Return agents with one subscription each."""
        return self._platform.receivers(channel, count, "gateway-2")


@contextmanager
def artcafe(folder: Path) -> Iterator[ArtCafe]:
    """Run the stack."""
    with DevStack(folder, gateways=2, env=_ENVIRONMENT) as stack:
        yield ArtCafe(stack)
