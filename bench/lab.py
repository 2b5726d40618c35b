"""Everything that runs during a benchmark: the load generator, and each server from its first use on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar, cast

from artcafe_common.envelope import build_frame, sender_field
from artcafe_common.ids import new_ulid
from bench.generator import Generator
from bench.loadgen.wire import Done, SocketPlan, message_data
from bench.peers.artcafe import ArtCafe, artcafe
from bench.peers.asgi_redis import AsgiRedis, asgi_redis
from bench.peers.bare_send import BareSend, bare_send
from bench.peers.base import Peer
from bench.peers.nats_websocket import NatsWebSocket, nats_websocket
from bench.processes import CpuMeter, split_cores

AGENT_ID, CHANNEL_ID = "agent-00000", "fan"
# A message of a benchmark has between 126 and 65 535 bytes (RFC 6455 section 5.2).
_WEBSOCKET_HEADER_BYTES = 4

Report = Callable[[str], None]
P = TypeVar("P", bound=Peer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured, and for how long; `seconds` is the length of each of the rounds."""

    rounds: int = 5
    seconds: float = 1.0
    warm_up_seconds: float = 0.2
    receivers: int = 200
    growth: tuple[int, ...] = (10, 100, 1000)
    agents: int = 2000
    heartbeats: int = 5
    idle_seconds: float = 4.0
    rate: float = 1000.0
    preview_rate: float = 20_000.0


QUICK = Effort(
    rounds=2,
    seconds=0.25,
    warm_up_seconds=0.05,
    receivers=20,
    growth=(2, 20),
    agents=40,
    heartbeats=2,
    idle_seconds=0.5,
    rate=200.0,
    preview_rate=500.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One round with one peer: what was delivered, and the CPU seconds of each process meanwhile.

    `generator_busy` is the share of the time in which the generator had something to do.
    """

    messages: int
    deliveries: int
    seconds: float
    serving: dict[str, float]
    beside: dict[str, float]
    generator_busy: float
    latencies: list[float]

    @property
    def per_delivery_us(self) -> float:
        """CPU microseconds of the serving processes for each copy that arrived."""
        return sum(self.serving.values()) / self.deliveries * 1e6

    @property
    def beside_us(self) -> float:
        """The same of the processes beside."""
        return sum(self.beside.values()) / self.deliveries * 1e6


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel at a peer with open sockets: the names of the generator's groups."""

    peer: Peer
    publisher: str
    receivers: str


Samples = dict[str, list[Sample]]


class Lab:
    """Use it as a context manager; servers are pinned to one core, the generator to another.

    The generator sleeps between messages if `sleeping`, or where it has no core to itself.
    """

    def __init__(self, folder: Path, effort: Effort, report: Report, *, sleeping: bool = False) -> None:
        self.effort = effort
        self.report = report
        self.server_core, self.generator_core = split_cores()
        self._folder = folder
        self._servers = ExitStack()
        self._peers: dict[str, Peer] = {}
        self._groups: set[str] = set()
        self._cores_before = os.sched_getaffinity(0)
        self.generator = Generator(
            self.generator_core, spin=self.generator_core != self.server_core and not sleeping
        )

    def __enter__(self) -> Lab:
        # The servers inherit it.
        os.sched_setaffinity(0, {self.server_core})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # First, so that no server waits for goodbyes.
        self.generator.close()
        self._servers.close()
        os.sched_setaffinity(0, self._cores_before)

    def artcafe(self) -> ArtCafe:
        """Return the platform, started if it was not yet."""
        return self._started("artcafe", lambda: artcafe(self._subfolder("artcafe")))

    def nats(self) -> NatsWebSocket:
        """Return nats-server's WebSocket listener."""
        return self._started("nats", lambda: nats_websocket(self._subfolder("nats")))

    def asgi(self) -> AsgiRedis:
        """Return Starlette with Redis."""
        return self._started("asgi", lambda: asgi_redis(self._subfolder("asgi")))

    def bare_send(self, receivers: int) -> BareSend:
        """Return the loop of `send()` for so many receivers."""
        folder = self._subfolder("send")
        return self._started(f"send-{receivers}", lambda: bare_send(folder, receivers, delivered_bytes()))

    def sockets(self, peer: Peer, channel: str, receivers: int) -> Channel:
        """Return a publisher's and receivers' sockets on a channel, open from now on."""
        # The floor counts its connections: its publisher comes first.
        publisher = self._group(peer, f"{channel}>", lambda: [peer.publisher(channel)])
        return Channel(peer, publisher, self.receivers(peer, channel, receivers))

    def receivers(self, peer: Peer, channel: str, count: int) -> str:
        """Return the name of the group of receivers of a channel, open from now on."""
        return self._group(peer, channel, lambda: peer.receivers(channel, count))

    def flood(self, channel: Channel, in_flight: int) -> Sample:
        """Publish for one round."""
        generator, effort = self.generator, self.effort
        generator.flood(channel.publisher, channel.receivers, in_flight, effort.warm_up_seconds)
        return measured(
            channel.peer,
            lambda: generator.flood(channel.publisher, channel.receivers, in_flight, effort.seconds),
        )

    def paced(self, channel: Channel) -> Sample:
        """Publish at the fixed rate for one round."""
        generator, effort = self.generator, self.effort
        generator.paced(channel.publisher, channel.receivers, effort.rate, effort.warm_up_seconds)
        return measured(
            channel.peer,
            lambda: generator.paced(channel.publisher, channel.receivers, effort.rate, effort.seconds),
        )

    def rounds(self, channels: Sequence[Channel], work: Callable[[Channel], Sample]) -> Samples:
        """Let the peers take turns for all rounds; samples by the peer's name, round by round."""
        samples: Samples = {channel.peer.name: [] for channel in channels}
        for number in range(self.effort.rounds):
            # Each comes first once: what the one before leaves behind (a warm cache, a busy clock) evens out.
            first = number % len(channels)
            for channel in (*channels[first:], *channels[:first]):
                samples[channel.peer.name].append(work(channel))
        return samples

    def _group(self, peer: Peer, channel: str, plans: Callable[[], list[SocketPlan]]) -> str:
        name = f"{peer.name} {channel}"
        if name not in self._groups:
            self.generator.open(name, plans())
            self._groups.add(name)
        return name

    def _started(self, name: str, start: Callable[[], AbstractContextManager[P]]) -> P:
        if name not in self._peers:
            self.report(f"starting {name}")
            self._peers[name] = self._servers.enter_context(start())
        # Each name stands for one class of peer.
        return cast(P, self._peers[name])

    def _subfolder(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        return folder


def measured(peer: Peer, work: Callable[[], Done]) -> Sample:
    """Do something and return what it cost the peer's processes."""
    serving, beside = CpuMeter(peer.serving), CpuMeter(peer.beside)
    done = work()
    return Sample(
        messages=done.count,
        deliveries=done.deliveries,
        seconds=done.seconds,
        serving=serving.used(),
        beside=beside.used(),
        generator_busy=1.0 - done.idle_seconds / done.seconds,
        latencies=done.latencies,
    )


def delivered_bytes() -> int:
    """Return how many bytes ArtCafe sends for one copy of a message; the floor sends as many."""
    frame = build_frame(new_ulid(), sender_field(AGENT_ID), time.time(), CHANNEL_ID, message_data())
    return len(frame) + _WEBSOCKET_HEADER_BYTES
