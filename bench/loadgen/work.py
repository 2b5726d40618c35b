"""What the generator does when it is told to: publish, receive, count and take times.

Where it has a core to itself it never sleeps. Waking a receiver is work that the sender's system call does
when both are on one machine; clients on other machines would not charge it to the server, and a slow server
would pay it more often than a fast one.
"""

from __future__ import annotations

import time

from bench.loadgen.sockets import Client, GeneratorError, Group
from bench.loadgen.wire import Done, Flood, Paced, Say

STALL_SECONDS = 10.0
_EVENTS_MAX = 1024


class Waiting:
    """Wait for readable sockets of a group, without sleep if `spin`, and add up how long nothing came."""

    def __init__(self, group: Group, *, spin: bool) -> None:
        self._poll = group.epoll.poll
        self._spin = spin
        self.idle_seconds = 0.0

    def until(self, deadline: float) -> list[tuple[int, int]]:
        """Return what is readable, or nothing after the deadline (of `time.perf_counter`)."""
        events = self._poll(0, _EVENTS_MAX)
        if events:
            return events
        start = now = time.perf_counter()
        while not events and now < deadline:
            # A sleep ends up to a millisecond late, so that the last one is spun through in any case.
            rest = 0.0 if self._spin else max(0.0, deadline - now - 0.001)
            events = self._poll(rest, _EVENTS_MAX)
            now = time.perf_counter()
        self.idle_seconds += now - start
        return events


def flood(command: Flood, publisher: Client, receivers: Group, *, spin: bool) -> Done:
    """Publish with a bounded number of messages under way, for a time, and then see all of them arrive.

    A message is under way until the last receiver has it.
    """
    window, frame, wanted = command.in_flight, publisher.plan.publish, len(receivers.clients)
    clients, send = receivers.clients, publisher.socket.sendall
    for client in clients.values():
        client.seen = 0
    # By message number modulo the window: how many receivers have it.
    having = [0] * window
    published = completed = 0
    waiting = Waiting(receivers, spin=spin)
    start = now = time.perf_counter()
    deadline = start + command.seconds
    while now < deadline or completed < published:
        room = window - (published - completed)
        if room and now < deadline:
            send(frame * room if room > 1 else frame)
            published += room
        events = waiting.until(now + STALL_SECONDS)
        if not events:
            raise GeneratorError(f"message {completed + 1} did not reach every one of {wanted} receivers")
        for fd, _ in events:
            client = clients[fd]
            count = client.receive()
            if count:
                before = client.seen
                client.seen = before + count
                for number in range(before, before + count):
                    having[number % window] += 1
        while completed < published and having[completed % window] == wanted:
            having[completed % window] = 0
            completed += 1
        now = time.perf_counter()
    return Done(
        count=completed,
        deliveries=completed * wanted,
        seconds=now - start,
        idle_seconds=waiting.idle_seconds,
    )


def paced(command: Paced, publisher: Client, receivers: Group, *, spin: bool) -> Done:
    """Publish at a fixed rate to one receiver; latencies count from when a message was due, not when sent.

    So a generator or a server that falls behind does not make its own delay disappear.
    """
    (receiver,) = receivers.clients.values()
    frame, pause = publisher.plan.publish, 1.0 / command.rate
    latencies: list[float] = []
    total, published, received = int(command.seconds * command.rate), 0, 0
    waiting = Waiting(receivers, spin=spin)
    start = time.perf_counter()
    while received < total:
        now = time.perf_counter()
        while published < total and start + published * pause <= now:
            publisher.socket.sendall(frame)
            published += 1
        if waiting.until(start + published * pause if published < total else now + STALL_SECONDS):
            count = receiver.receive()
            now = time.perf_counter()
            for number in range(received, received + count):
                latencies.append(now - (start + number * pause))
            received += count
        elif published == total:
            raise GeneratorError(f"{total - received} of {total} messages did not arrive")
    return Done(
        count=received,
        deliveries=received,
        seconds=time.perf_counter() - start,
        idle_seconds=waiting.idle_seconds,
        latencies=latencies,
    )


def say(command: Say, group: Group) -> Done:
    """Send a frame on every socket, one after the other, and wait for each answer."""
    start = time.perf_counter()
    for _ in range(command.times):
        group.drain()
        for client in group.clients.values():
            client.socket.sendall(command.frame)
        for client in group.clients.values():
            client.socket.settimeout(STALL_SECONDS)
            client.wait_for(command.answer)
            client.socket.setblocking(True)
    return Done(count=command.times * len(group.clients), seconds=time.perf_counter() - start)
