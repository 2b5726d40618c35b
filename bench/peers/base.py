"""What a benchmark needs of a server."""

from __future__ import annotations

from typing import Protocol

from bench.loadgen.wire import SocketPlan


class Peer(Protocol):
    """A running server that fans messages out.

    `serving` are the processes whose CPU is charged to a delivery, `beside` those that belong to the system
    but not to the path of a message.
    """

    name: str
    title: str

    @property
    def serving(self) -> dict[str, int]:
        """The ids of the processes that are charged, by name."""
        ...

    @property
    def beside(self) -> dict[str, int]:
        """The ids of the other processes, by name."""
        ...

    def publisher(self, channel: str) -> SocketPlan:
        """Return a socket that publishes to a channel."""
        ...

    def receivers(self, channel: str, count: int) -> list[SocketPlan]:
        """Return sockets that receive a channel."""
        ...
