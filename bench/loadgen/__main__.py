"""``python -m bench.loadgen CORE spin|sleep``: obey JSON lines on standard input, answer on output."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time

import msgspec

from bench.loadgen import work
from bench.loadgen.sockets import Client, GeneratorError, Group
from bench.loadgen.wire import Close, Command, Done, Flood, Open, Paced, Say

KEEPALIVE_SECONDS = 10.0
IDLE_POLL_SECONDS = 0.25

_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)


class Generator:
    """The sockets of this process by group, and the commands about them."""

    def __init__(self, *, spin: bool) -> None:
        self._spin = spin
        self._groups: dict[str, Group] = {}
        self._kept_alive_at = time.monotonic()

    def obey(self, command: Command) -> Done:
        """Do one command. Raises: GeneratorError, OSError."""
        self.look_after()
        match command:
            case Open():
                start = time.monotonic()
                group = self._groups.setdefault(command.group, Group())
                group.open(command.sockets, command.at_a_time, between=self.look_after)
                return Done(count=len(command.sockets), seconds=time.monotonic() - start)
            case Close():
                group = self._groups.pop(command.group)
                group.close()
                return Done()
            case Flood():
                return work.flood(command, *self._both(command), spin=self._spin)
            case Paced():
                return work.paced(command, *self._both(command), spin=self._spin)
            case Say():
                return work.say(command, self._groups[command.group])

    def look_after(self) -> None:
        """Read what nobody waits for, and keep every socket alive."""
        for group in self._groups.values():
            group.drain()
        if time.monotonic() - self._kept_alive_at > KEEPALIVE_SECONDS:
            self._kept_alive_at = time.monotonic()
            for group in self._groups.values():
                group.keep_alive()

    def _both(self, command: Flood | Paced) -> tuple[Client, Group]:
        (publisher,) = self._groups[command.publisher].clients.values()
        return publisher, self._groups[command.receivers]


def main() -> None:
    """Run until standard input ends."""
    os.sched_setaffinity(0, {int(sys.argv[1])})
    generator = Generator(spin=sys.argv[2] == "spin")
    while line := _next_line(generator):
        try:
            done = generator.obey(_decoder.decode(line))
        except (GeneratorError, OSError) as error:
            done = Done(error=str(error) or type(error).__name__)
        sys.stdout.buffer.write(msgspec.json.encode(done) + b"\n")
        sys.stdout.buffer.flush()


def _next_line(generator: Generator) -> bytes:
    """Wait for a command; the sockets are looked after meanwhile, and whoever uses a broken one is told."""
    while not select.select([sys.stdin], [], [], IDLE_POLL_SECONDS)[0]:
        with contextlib.suppress(GeneratorError, OSError):
            generator.look_after()
    return sys.stdin.buffer.readline()


if __name__ == "__main__":
    main()
