"""The generator's sockets: opened in batches, read with one call each, counted by the mark."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable

from bench.loadgen.wire import MARK, SocketPlan

OPEN_SECONDS_MAX = 30.0
_KEPT = len(MARK) - 1
_BUFFER_BYTES = 1 << 20
_DEAF_BUFFER_BYTES = 4096
# One buffer for all: what was read is counted before the next read. The bytes before `_KEPT` are for the end
# of what the same socket read before, since a mark may come in two parts.
_buffer = bytearray(_KEPT + _BUFFER_BYTES)
_room = memoryview(_buffer)[_KEPT:]


class GeneratorError(Exception):
    """Why the generator could not do what it was told."""


class Client:
    """One socket and how many messages it has received."""

    __slots__ = ("_early", "_end", "plan", "seen", "socket")

    def __init__(self, plan: SocketPlan) -> None:
        self.plan = plan
        self.seen = 0
        self._end = b""
        # What came behind something that was waited for.
        self._early = b""
        self.socket = socket.socket()
        if not plan.reads:
            # Before it connects: the window that it offers begins with this.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _DEAF_BUFFER_BYTES)
        self.socket.settimeout(OPEN_SECONDS_MAX)
        self.socket.connect((plan.host, plan.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self) -> int:
        """Read what is there and return how many messages ended in it. Raises: GeneratorError at the end."""
        try:
            size = self.socket.recv_into(_room)
        except ConnectionError:
            size = 0
        if size == 0:
            raise GeneratorError("a server closed a socket")
        end = self._end
        if end:
            start = _KEPT - len(end)
            _buffer[start:_KEPT] = end
        else:
            start = _KEPT
        stop = _KEPT + size
        count = _buffer.count(MARK, start, stop)
        if _buffer.find(MARK, stop - len(MARK) - 3, stop) >= 0:
            # The usual case: nothing after the last mark but the end of its envelope.
            self._end = b""
        else:
            self._end = bytes(_buffer[max(start, stop - _KEPT) : stop])
        return count

    def wait_for(self, expected: bytes) -> None:
        """Read until something has come by. Raises: GeneratorError where it does not in time."""
        seen, self._early = self._early, b""
        deadline = time.monotonic() + OPEN_SECONDS_MAX
        while expected not in seen:
            try:
                part = self.socket.recv(65536)
            except TimeoutError:
                part = b""
            if not part or time.monotonic() > deadline:
                raise GeneratorError(f"{expected!r} did not come, but {seen[-300:]!r}")
            seen = (seen + part)[-65536:]
        self._early = seen[seen.index(expected) + len(expected) :]

    def close(self) -> None:
        """Close at once."""
        with contextlib.suppress(OSError):
            self.socket.close()


class Group:
    """Sockets under one name, with one epoll."""

    def __init__(self) -> None:
        self.clients: dict[int, Client] = {}
        self.epoll = select.epoll()

    def open(self, plans: list[SocketPlan], at_a_time: int, between: Callable[[], None]) -> None:
        """Open sockets and wait until every one is ready; `between` is called after each batch."""
        for first in range(0, len(plans), at_a_time):
            batch: list[Client] = []
            for plan in plans[first : first + at_a_time]:
                client = Client(plan)
                batch.append(client)
                self.clients[client.socket.fileno()] = client
                client.socket.sendall(plan.opening)
            for client in batch:
                if client.plan.opened:
                    client.wait_for(client.plan.opened)
                client.socket.sendall(client.plan.hello)
            for client in batch:
                if client.plan.ready:
                    client.wait_for(client.plan.ready)
                # Without a time limit: with one, every read would be two system calls.
                client.socket.setblocking(True)
                if client.plan.reads:
                    self.epoll.register(client.socket.fileno(), select.EPOLLIN)
            between()

    def drain(self) -> int:
        """Read what has come meanwhile; return how many messages that were."""
        count = 0
        while events := self.epoll.poll(0, maxevents=1024):
            for fd, _ in events:
                count += self.clients[fd].receive()
        return count

    def keep_alive(self) -> None:
        """Say on every socket that its client is there."""
        for client in self.clients.values():
            if client.plan.keepalive:
                client.socket.send(client.plan.keepalive)

    def close(self) -> None:
        """Close every socket."""
        self.epoll.close()
        for client in self.clients.values():
            client.close()
        self.clients.clear()
