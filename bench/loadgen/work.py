"""What the generator does when it is told to: publish, receive, count and take times."""

from __future__ import annotations

import select
import time

from bench.loadgen.sockets import Client, GeneratorError, Group
from bench.loadgen.wire import Done, Flood, Paced, Say

STALL_SECONDS = 10.0


def flood(command: Flood, publisher: Client, receivers: Group) -> Done:
    """Publish with a bounded number of messages under way, for a time, and then see all of them arrive.

    A message is under way until the last receiver has it.
    """
    window, frame, wanted = command.in_flight, publisher.plan.publish, len(receivers.clients)
    clients, poll, send = receivers.clients, receivers.epoll.poll, publisher.socket.sendall
    for client in clients.values():
        client.seen = 0
    # By message number modulo the window: how many receivers have it.
    having = [0] * window
    published = completed = 0
    cpu, start = time.process_time(), time.monotonic()
    deadline, running = start + command.seconds, True
    while running or completed < published:
        room = window - (published - completed)
        if running and room:
            send(frame * room if room > 1 else frame)
            published += room
        events = poll(STALL_SECONDS, 1024)
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
        running = running and time.monotonic() < deadline
    return Done(
        count=completed,
        deliveries=completed * wanted,
        seconds=time.monotonic() - start,
        cpu_seconds=time.process_time() - cpu,
    )


def paced(command: Paced, publisher: Client, receivers: Group) -> Done:
    """Publish at a fixed rate to one receiver; latencies count from when a message was due, not when sent.

    So a generator or a server that falls behind does not make its own delay disappear.
    """
    (receiver,) = receivers.clients.values()
    frame, pause = publisher.plan.publish, 1.0 / command.rate
    latencies: list[float] = []
    total, published, received = int(command.seconds * command.rate), 0, 0
    cpu, start = time.process_time(), time.perf_counter()
    while received < total:
        now = time.perf_counter()
        while published < total and start + published * pause <= now:
            publisher.socket.sendall(frame)
            published += 1
        wait = max(0.0, start + published * pause - now) if published < total else STALL_SECONDS
        readable, _, _ = select.select([receiver.socket], [], [], wait)
        if readable:
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
        cpu_seconds=time.process_time() - cpu,
        latencies=latencies,
    )


def say(command: Say, group: Group) -> Done:
    """Send a frame on every socket, one after the other, and wait for each answer."""
    cpu, start = time.process_time(), time.monotonic()
    for _ in range(command.times):
        group.drain()
        for client in group.clients.values():
            client.socket.sendall(command.frame)
        for client in group.clients.values():
            client.socket.settimeout(STALL_SECONDS)
            client.wait_for(command.answer)
            client.socket.setblocking(True)
    return Done(
        count=command.times * len(group.clients),
        seconds=time.monotonic() - start,
        cpu_seconds=time.process_time() - cpu,
    )
