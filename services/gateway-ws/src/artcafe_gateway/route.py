"""Where the messages of one channel go: the sockets here that get them, and how many copies they got."""

from __future__ import annotations

from typing import Protocol

from artcafe_common.usage import UsageCounter
from artcafe_gateway import metrics
from artcafe_gateway.connection import Connection
from artcafe_gateway.outbox import Policy


class Receiver(Protocol):
    """A session that messages are delivered to."""

    tenant_id: str
    connection: Connection
    # Pattern -> policy, in the order of subscription.
    patterns: dict[str, Policy]

    def may_read(self, channel_id: str) -> bool | None:
        """Whether the session may read a channel; None where that must be looked up first."""
        ...


class Watcher(Receiver, Protocol):
    """A dashboard: its copies are not counted, and it reads another text than agents do."""

    def render(self, frame: bytes) -> bytes:
        """Return the text of a message as dashboards read it."""
        ...


class Route:
    """Where messages of one channel go that come in on one NATS subscription."""

    __slots__ = (
        "_counter",
        "bytes_out",
        "channel_id",
        "count",
        "counted",
        "frames",
        "lost",
        "pending_bytes",
        "receivers",
        "tenant_id",
        "watchers",
        "withheld",
    )

    def __init__(self, tenant_id: str, channel_id: str, counter: UsageCounter, counted: bool) -> None:
        self.tenant_id = tenant_id
        self.channel_id = channel_id
        # None while it is being found out who may read the channel.
        self.receivers: dict[Connection, Policy] | None = None
        self.watchers: dict[Watcher, Policy] = {}
        self.frames: list[bytes] = []
        # What waits while there are no receivers yet, and how many messages had no room.
        self.pending_bytes = 0
        self.lost = 0
        # Since the last settlement: messages for every receiver, bytes of their data, and the copies of these
        # that not everyone got. Single receivers' differences are in the usage counter already.
        self.count = 0
        self.bytes_out = 0
        self.withheld = 0
        self.counted = counted
        self._counter = counter

    def delivered(self, connection: Connection, size: int) -> None:
        """Count a copy that one connection got after all."""
        if connection.agent_id is not None:
            self._tally(connection.agent_id, 1, size, self._counter.now())
            metrics.DELIVERIES.inc()

    def withhold(self, connection: Connection, count: int, size: int) -> None:
        """Take back copies of one connection that are counted with those of all receivers."""
        if connection.agent_id is not None:
            self._tally(connection.agent_id, -count, -size)
            self.withheld += count

    def join(self, connection: Connection, policy: Policy) -> None:
        """Add a receiver, or change its policy."""
        assert self.receivers is not None
        if connection not in self.receivers:
            # It did not get what was counted so far.
            self.withhold(connection, self.count, self.bytes_out)
        self.receivers[connection] = policy

    def part(self, connection: Connection) -> None:
        """Take out a receiver, which has got what was counted so far."""
        if self.receivers is not None and self.receivers.pop(connection, None) is not None:
            assert connection.agent_id is not None
            self._tally(connection.agent_id, self.count, self.bytes_out)
            self.withheld -= self.count

    def settle(self) -> None:
        """Hand what was counted for all receivers to the usage counter."""
        count, size = self.count, self.bytes_out
        if count and self.receivers is not None:
            metrics.DELIVERIES.inc(max(0, count * len(self.receivers) - self.withheld))
            self.count = self.bytes_out = self.withheld = 0
            for connection in self.receivers:
                assert connection.agent_id is not None
                self._tally(connection.agent_id, count, size)

    def _tally(self, agent_id: str, count: int, size: int, now: float | None = None) -> None:
        """Count copies; without a time where they are one side of what `settle` brings the other side of.

        Then both belong to the same hour, or the one that takes back would be below zero.
        """
        if not self.counted:
            return
        if now is None:
            tally = self._counter.open_tally(self.tenant_id, agent_id, self.channel_id)
        else:
            tally = self._counter.tally(now, self.tenant_id, agent_id, self.channel_id)
        tally.deliveries += count
        tally.bytes_out += size
