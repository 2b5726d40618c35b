"""The load generator against small servers that are in the test."""

import itertools
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from bench.loadgen.sockets import Client, GeneratorError, Group
from bench.loadgen.wire import MARK, Flood, Paced, SocketPlan, client_frame, message_data
from bench.loadgen.work import flood, paced
from bench.processes import split_cores


@contextmanager
def echo_to_all(receivers: int, parts: int = 1, leave_out: int = 0) -> Iterator[tuple[Client, Group]]:
    """Serve a publisher, whose every byte is a message to the receivers but the first `leave_out`.

    With several `parts` a message leaves in pieces, so that its mark is cut in two.
    """
    message = b"head" + message_data() + b"}"
    cut = len(message) - len(MARK) // 2
    pieces = [message] if parts == 1 else [message[:cut], message[cut:]]

    def serve(listener: socket.socket) -> None:
        sockets = [listener.accept()[0] for _ in range(receivers + 1)]
        while asked := sockets[0].recv(100):
            for _ in asked:
                for piece in pieces:
                    for each in sockets[1 + leave_out :]:
                        each.sendall(piece)
        for each in sockets:
            each.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        plan = SocketPlan(host="127.0.0.1", port=listener.getsockname()[1], publish=b"m")
        publisher, group = Client(plan), Group()
        group.open([plan] * receivers, at_a_time=2, between=lambda: None)
        try:
            yield publisher, group
        finally:
            publisher.close()
            thread.join()
            group.close()


def test_message_data_is_json_of_the_wanted_size() -> None:
    """The data that every peer carries has the size that the targets name."""
    assert len(message_data()) == 200
    assert json.loads(message_data())["mark"] == "@#"


@pytest.mark.parametrize("size", [5, 125, 126, 65_535, 65_536])
def test_client_frame_announces_its_payload(size: int) -> None:
    """Each of the three lengths of RFC 6455 is written as a server reads it."""
    frame = client_frame(b"x" * size)
    short = frame[1] & 0x7F
    extended = {126: 2, 127: 8}.get(short, 0)
    announced = int.from_bytes(frame[2 : 2 + extended]) if extended else short
    assert announced == size == len(frame) - 2 - extended - 4


@pytest.mark.parametrize("in_flight", [1, 7])
@pytest.mark.parametrize("parts", [1, 2])
def test_flood_counts_every_copy_once(in_flight: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole or cut in two, alone or several in one read: all receivers get all messages."""
    # Time goes on by a millisecond whenever it is looked at: no standstill ends it before enough was sent.
    looks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(looks) / 1000)
    monkeypatch.setattr("bench.loadgen.work.time", clock)
    with echo_to_all(5, parts) as (publisher, group):
        done = flood(
            Flood(publisher="p", receivers="r", in_flight=in_flight, seconds=2.0),
            publisher,
            group,
            spin=False,
        )
        assert done.count > in_flight
        assert done.deliveries == 5 * done.count
        assert {client.seen for client in group.clients.values()} == {done.count}


def test_flood_says_when_a_receiver_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that leaves one out does not get a good result, but none."""
    monkeypatch.setattr("bench.loadgen.work.STALL_SECONDS", 0.3)
    with echo_to_all(3, leave_out=1) as (publisher, group), pytest.raises(GeneratorError, match="message 1 "):
        flood(Flood(publisher="p", receivers="r", in_flight=1, seconds=0.2), publisher, group, spin=False)


def test_paced_publishes_at_its_rate_and_times_every_message() -> None:
    """Neither faster nor slower than asked, and a latency for each message."""
    with echo_to_all(1) as (publisher, group):
        done = paced(Paced(publisher="p", receivers="r", rate=200, seconds=0.5), publisher, group, spin=False)
        assert done.count == len(done.latencies) == 100
        assert done.seconds >= 0.49
        assert all(latency > 0 for latency in done.latencies)


def test_a_closed_socket_is_an_error() -> None:
    """A server that drops a receiver is not measured on."""
    with echo_to_all(2) as (publisher, group):
        publisher.socket.shutdown(socket.SHUT_WR)
        other = group.clients[min(group.clients)]
        with pytest.raises(GeneratorError, match="closed"):
            flood(Flood(publisher="p", receivers="r", in_flight=1, seconds=0.2), other, group, spin=False)


def test_servers_and_generator_have_cores_of_their_own() -> None:
    """Where there are two cores, neither slows the other."""
    servers, generator = split_cores()
    assert (servers != generator) == (len(os.sched_getaffinity(0)) > 1)
