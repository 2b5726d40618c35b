"""Start a server of a benchmark as a process, wait until it listens, and end it."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.generator import BenchError

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0
_ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def running(
    name: str,
    argv: Sequence[str],
    log: Path,
    *,
    port: int,
    said: bytes = b"",
    probe: bool = True,
    env: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Run a program, with something to read, for the length of a block; yields its process id.

    Where `probe` is false the port is not connected to but looked up, for servers that count connections.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(argv), stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=_ROOT, env=env
        )
    assert process.stdin is not None
    process.stdin.write(said)
    process.stdin.close()
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not (_connects(port) if probe else _listens(port)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{name} did not start: {log.read_text()[-500:]}")
            time.sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def _listens(port: int) -> bool:
    """Tell from the kernel's table whether something listens on a port."""
    wanted = f":{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(wanted) and fields[3] == "0A":
            return True
    return False
