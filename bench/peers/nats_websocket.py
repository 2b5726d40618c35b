"""nats-server's own WebSocket listener: what an expert would use without a platform on top."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from artcafe_devstack import binaries
from artcafe_devstack.ports import free_port
from bench.loadgen.wire import BINARY, UPGRADED, SocketPlan, client_frame, message_data, upgrade
from bench.subprocesses import running

_CONNECT = (
    b'CONNECT {"verbose":false,"pedantic":false,"lang":"bench","version":"1","protocol":1,"echo":true}\r\n'
)
_SETTINGS = """
listen: "127.0.0.1:{port}"
websocket {{ listen: "127.0.0.1:{ws_port}", no_tls: true, compression: false }}
# Its pings would go unanswered: the generator decodes nothing.
ping_interval: "10m"
"""


@dataclass
class NatsWebSocket:
    """A running nats-server with a WebSocket listener."""

    serving: dict[str, int]
    beside: dict[str, int]
    port: int
    name: str = "nats"
    title: str = "nats-server WebSocket"

    def publisher(self, channel: str) -> SocketPlan:
        """Return a NATS client that publishes."""
        data = message_data()
        command = b"PUB %b %d\r\n%b\r\n" % (channel.encode(), len(data), data)
        return self._plan(b"", client_frame(command, BINARY))

    def receivers(self, channel: str, count: int) -> list[SocketPlan]:
        """Return NATS clients with one subscription each."""
        return [self._plan(b"SUB %b 1\r\n" % channel.encode())] * count

    def _plan(self, commands: bytes, publish: bytes = b"") -> SocketPlan:
        return SocketPlan(
            host="127.0.0.1",
            port=self.port,
            opening=upgrade("127.0.0.1", self.port, "/"),
            opened=UPGRADED,
            hello=client_frame(_CONNECT + commands + b"PING\r\n", BINARY),
            ready=b"PONG\r\n",
            publish=publish,
        )


@contextmanager
def nats_websocket(folder: Path) -> Iterator[NatsWebSocket]:
    """Run nats-server."""
    port, ws_port = free_port(), free_port()
    settings = folder / "nats-websocket.conf"
    settings.write_text(_SETTINGS.format(port=port, ws_port=ws_port))
    argv = [str(binaries.nats_server()), "--config", str(settings)]
    with running("nats-server", argv, folder / "nats-websocket.log", port=ws_port) as pid:
        yield NatsWebSocket({"nats-server": pid}, {}, ws_port)
