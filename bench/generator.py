"""The benchmark's end of the load generator: start the process, give commands, hear what was done."""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from bench.loadgen.wire import Close, Command, Done, Flood, Open, Paced, Say, SocketPlan

ANSWER_SECONDS_MAX = 90.0
_ROOT = Path(__file__).resolve().parent.parent
_decoder = msgspec.json.Decoder(Done)


class BenchError(Exception):
    """A reason why something could not be measured, in one line meant for a person."""


class Generator:
    """A running load generator on one core, that never sleeps if `spin`; use it as a context manager."""

    def __init__(self, core: int, *, spin: bool) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.loadgen", str(core), "spin" if spin else "sleep"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
        )

    def open(self, group: str, plans: Sequence[SocketPlan], *, at_a_time: int = 32) -> Done:
        """Open sockets and wait until all are ready."""
        return self._do(Open(group=group, sockets=list(plans), at_a_time=at_a_time))

    def close_group(self, group: str) -> None:
        """Close the sockets of a group."""
        self._do(Close(group=group))

    def flood(self, publisher: str, receivers: str, in_flight: int, seconds: float) -> Done:
        """Publish with so many messages under way."""
        return self._do(Flood(publisher=publisher, receivers=receivers, in_flight=in_flight, seconds=seconds))

    def paced(self, publisher: str, receivers: str, rate: float, seconds: float) -> Done:
        """Publish at a fixed rate and take every message's time."""
        return self._do(Paced(publisher=publisher, receivers=receivers, rate=rate, seconds=seconds))

    def say(self, group: str, frame: bytes, answer: bytes, times: int) -> Done:
        """Send a frame on every socket and wait for the answers."""
        return self._do(Say(group=group, frame=frame, answer=answer, times=times))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _do(self, command: Command) -> Done:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], ANSWER_SECONDS_MAX)[0]:
            raise BenchError(f"the load generator did not answer in {ANSWER_SECONDS_MAX:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("the load generator has ended")
        done = _decoder.decode(line)
        if done.error is not None:
            raise BenchError(f"load generator: {done.error}")
        return done

    def __enter__(self) -> Generator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
