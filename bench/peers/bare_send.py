"""The floor: a loop of plain `send()`, in C where there is a compiler, else in Python.

Run as a program it is the Python version: ``python -m bench.peers.bare_send PORT RECEIVERS BYTES``.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from artcafe_devstack.ports import free_port
from bench.loadgen.wire import MARK, SocketPlan
from bench.subprocesses import running

_SOURCE = Path(__file__).with_suffix(".c")


@dataclass
class BareSend:
    """A running loop of `send()`; it serves one publisher and so many receivers, once."""

    title: str
    serving: dict[str, int]
    beside: dict[str, int]
    port: int
    name: str = "send"

    def publisher(self, channel: str) -> SocketPlan:
        """Return the socket of which each byte is a message; it must be opened first."""
        return SocketPlan(host="127.0.0.1", port=self.port, publish=b"m")

    def receivers(self, channel: str, count: int) -> list[SocketPlan]:
        """Return the receiving sockets."""
        return [SocketPlan(host="127.0.0.1", port=self.port)] * count


@contextmanager
def bare_send(folder: Path, receivers: int, message_bytes: int) -> Iterator[BareSend]:
    """Run the loop for a number of receivers and a message of so many bytes."""
    port = free_port()
    program = _compiled(folder)
    argv = [str(program)] if program else [sys.executable, "-m", "bench.peers.bare_send"]
    argv += [str(port), str(receivers), str(message_bytes)]
    with running("send", argv, folder / "send.log", port=port, said=MARK, probe=False) as pid:
        title = "bare send() in C" if program else "bare send() in Python"
        yield BareSend(title, {"send": pid}, {}, port)


def _compiled(folder: Path) -> Path | None:
    """Return the C program, compiled; None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    program = folder / "bare_send"
    if not program.exists():
        subprocess.run([compiler, "-O2", "-o", str(program), str(_SOURCE)], check=True, timeout=60)
    return program


def main() -> None:
    """Serve as `bare_send.c` does."""
    port, receivers, size = map(int, sys.argv[1:4])
    mark = sys.stdin.buffer.read()
    message = b"x" * (size - len(mark)) + mark
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        publisher = listener.accept()[0]
        sockets = [listener.accept()[0] for _ in range(receivers)]
    for each in sockets:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sends = [each.send for each in sockets]
    while asked := publisher.recv(4096):
        for _ in asked:
            for send in sends:
                send(message)


if __name__ == "__main__":
    main()
