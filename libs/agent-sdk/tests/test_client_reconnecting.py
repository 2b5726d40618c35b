"""Breaks: which of them end a client, and what is restored after the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from sdk_peer import PATIENCE, UNIT, Command, Peer, PeerSocket, online_again, until

from artcafe_agent import (
    Client,
    CommandError,
    ConnectionLost,
    ConnectionState,
    CredentialsRefused,
    NotConnected,
    Presence,
    ProtocolRefused,
    QuotaExceeded,
    ReconnectPolicy,
    ReplacedError,
    RevokedError,
    StateChange,
    StoppedError,
    TenantSuspended,
)

ClientMaker = Callable[..., Client]
# Any share of the delay may be waited for: hardly ever less than a test takes.
SLOW = ReconnectPolicy(first_delay=1e6, longest_delay=1e6)


async def test_break_while_publishing_has_an_unknown_outcome(peer: Peer, client_of: ClientMaker) -> None:
    """Every publish in flight at a break raises `ConnectionLost`; later ones use the new connection."""

    async def drop(socket: PeerSocket, command: Command) -> bool:
        if command["type"] == "publish" and command["data"] == "drop":
            socket.drop()
            return True
        return bool(command["type"] == "publish" and command["data"] == "hold")

    peer.hook = drop
    async with client_of() as client:
        holding = [asyncio.create_task(client.publish("team", "hold")) for _ in range(3)]
        await (await peer.socket()).wait_for("publish", 3)
        outcomes = await asyncio.gather(client.publish("team", "drop"), *holding, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ConnectionLost] * 4
        assert "whether it took effect is unknown" in str(outcomes[0])
        assert await client.publish("team", "after")
        assert len(peer.sockets) == 2
        assert [command["data"] for command in peer.sockets[1].of_type("publish")] == ["after"]


async def test_publishing_while_away_waits_for_the_connection(peer: Peer, client_of: ClientMaker) -> None:
    """What is published during a break goes out once, when the connection is back."""
    async with client_of() as client:
        (await peer.socket()).drop()
        await until(lambda: not client.is_online or client.reconnects > 0)
        assert await client.publish("team", "patient")
        assert [command["data"] for command in peer.sockets[1].of_type("publish")] == ["patient"]


async def test_publishing_while_away_for_too_long_sends_nothing(peer: Peer, client_of: ClientMaker) -> None:
    """`NotConnected` promises that the message was not sent."""
    async with client_of(reconnect=SLOW) as client:
        (await peer.socket()).drop()
        await until(lambda: not client.is_online or client.reconnects > 0)
        with pytest.raises(NotConnected):
            await client.publish("team", 1, timeout=2 * UNIT)
    assert all(not socket.of_type("publish") for socket in peer.sockets)


async def test_restores_presence_and_subscriptions_before_anything_else(
    peer: Peer, client_of: ClientMaker
) -> None:
    """On a new connection the peer hears presence and subscriptions first, then what waited."""
    stated = Presence(status="busy", metadata={"v": 1})
    async with client_of(presence=stated) as client:
        subscription = await client.subscribe("a", "b.*")
        gone = await client.subscribe("c")
        await gone.close()
        (await peer.socket()).drop()
        await until(lambda: not client.is_online or client.reconnects > 0)
        await client.publish("a", "question")
        kinds = [command["type"] for command in peer.sockets[1].commands if command["type"] != "heartbeat"]
        assert kinds == ["presence", "subscribe", "subscribe", "publish"]
        assert peer.sockets[1].of_type("presence")[0]["status"] == "busy"
        assert sorted(peer.sockets[1].channels) == ["a", "b.*"]
        assert (await subscription.get(PATIENCE)).data == "question"
        assert client.reconnects == 1


async def test_every_connection_uses_a_fresh_challenge(peer: Peer, client_of: ClientMaker) -> None:
    """A challenge works once, so a reconnection asks for another."""
    async with client_of() as client:
        for number in range(1, 4):
            (await peer.socket(number)).drop()
            await online_again(client, number)
    assert len(set(peer.challenges)) == 4
    assert peer.unused == set()


async def test_subscription_refused_after_a_break_ends_with_the_reason(
    peer: Peer, client_of: ClientMaker
) -> None:
    """A grant that was taken away ends its subscription after what was received; others go on."""

    async def revoke(socket: PeerSocket, command: Command) -> bool:
        if command["type"] == "subscribe" and command["channel"] == "private" and len(peer.sockets) > 1:
            await socket.send(type="error", code="permission_denied", message="no", id=command["id"])
            return True
        return False

    peer.hook = revoke
    async with client_of() as client:
        private = await client.subscribe("private", "also")
        public = await client.subscribe("public")
        await (await peer.socket()).deliver("private", "last")
        await until(lambda: private.waiting > 0)
        (await peer.socket()).drop()
        await online_again(client)
        assert (await private.get(PATIENCE)).data == "last"
        with pytest.raises(CommandError, match="permission_denied"):
            await private.get(PATIENCE)
        await peer.sockets[1].deliver("public", 1)
        assert (await public.get(PATIENCE)).data == 1
        assert (await peer.sockets[1].wait_for("unsubscribe"))["channel"] == "also"


async def test_subscription_refused_for_now_is_restored_later(peer: Peer, client_of: ClientMaker) -> None:
    """A server whose registry is away answers `unavailable`: the client goes on asking."""
    refusals = iter([True, True, False])

    async def unavailable(socket: PeerSocket, command: Command) -> bool:
        if command["type"] == "subscribe" and len(peer.sockets) > 1 and next(refusals):
            await socket.send(type="error", code="unavailable", message="later", id=command["id"])
            return True
        return False

    peer.hook = unavailable
    async with client_of() as client:
        subscription = await client.subscribe("team")
        (await peer.socket()).drop()
        await online_again(client)
        await peer.sockets[1].wait_for("subscribe", 3)
        await peer.sockets[1].deliver("team", 1)
        assert (await subscription.get(PATIENCE)).data == 1


@pytest.mark.parametrize(
    "code", [1001, 1006, 1009, 1011, 1012, 1013, 4001, 4002, 4004, 4005, 4499, 1000, 3000]
)
async def test_close_codes_after_which_the_client_comes_back(
    code: int, peer: Peer, client_of: ClientMaker
) -> None:
    """Drain, a break, and the range 4001-4499 reconnect."""
    async with client_of() as client:
        socket = await peer.socket()
        if code == 1006:
            socket.drop()
        else:
            await socket.close(code, "why")
        await online_again(client)
        assert len(peer.sockets) == 2


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (4500, CredentialsRefused),
        (4501, RevokedError),
        (4502, TenantSuspended),
        (4503, ProtocolRefused),
        (4504, QuotaExceeded),
        (4505, StoppedError),
        (4999, StoppedError),
        (4006, ReplacedError),
    ],
)
async def test_close_codes_after_which_the_client_stops(
    code: int, kind: type[StoppedError], peer: Peer, client_of: ClientMaker
) -> None:
    """The range 4500-4999 and a replacement end the client with a typed error, everywhere it is used."""
    async with client_of() as client:
        subscription = await client.subscribe("team")
        await (await peer.socket()).close(code, "because")
        with pytest.raises(kind) as caught:
            await subscription.get(PATIENCE)
        assert (caught.value.code, caught.value.reason) == (code, "because")
        assert type(caught.value) is kind
        with pytest.raises(kind):
            await client.publish("team", 1)
        with pytest.raises(kind):
            await client.wait_closed()
        assert client.state is ConnectionState.FAILED
        await asyncio.sleep(4 * UNIT)
        assert len(peer.sockets) == 1


async def test_replaced_client_comes_back_where_it_is_told_to(peer: Peer, client_of: ClientMaker) -> None:
    """``take_over`` makes 4006 like any other break."""
    policy = ReconnectPolicy(first_delay=UNIT / 5, take_over=True)
    async with client_of(reconnect=policy) as client:
        await (await peer.socket()).close(4006)
        await online_again(client)


async def test_reconnecting_can_be_turned_off(peer: Peer, client_of: ClientMaker) -> None:
    """Without reconnection the break itself is the error."""
    async with client_of(reconnect=ReconnectPolicy(enabled=False)) as client:
        (await peer.socket()).drop()
        with pytest.raises(Exception, match="1006"):
            await client.wait_closed()


async def test_silent_server_is_given_up_after_two_intervals(peer: Peer, client_of: ClientMaker) -> None:
    """Heartbeats without acknowledgement mean a dead connection, however open the socket looks."""
    changes: list[StateChange] = []
    peer.heartbeat_interval = 2 * UNIT
    peer.acknowledges_heartbeats = False
    started = asyncio.get_running_loop().time()
    async with client_of(on_state_change=changes.append) as client:
        first = await peer.socket()
        async with asyncio.timeout(PATIENCE):
            await first.ended.wait()
        assert asyncio.get_running_loop().time() - started > 3 * UNIT
        peer.acknowledges_heartbeats = True
        await online_again(client)
        assert len(first.of_type("heartbeat")) <= 2
        lost = next(change for change in changes if change.current is ConnectionState.WAITING)
        assert "no heartbeat_ack" in str(lost.error)


async def test_heartbeats_go_on_by_themselves(peer: Peer, client_of: ClientMaker) -> None:
    """Heartbeats follow the server's interval, carry the metrics, and keep the connection."""
    peer.heartbeat_interval = UNIT
    # A pause of the machine is longer than two such intervals, and is not what is tested.
    patient = PATIENCE / UNIT
    async with client_of(heartbeat_metrics=lambda: {"load": 1}, intervals_without_ack=patient) as client:
        socket = await peer.socket()
        command = await socket.wait_for("heartbeat", 6)
        assert command["metrics"] == {"load": 1}
        assert command["timestamp"].endswith("Z")
        assert client.reconnects == 0
        assert client.heartbeats is not None
        assert client.heartbeats.last_acknowledged is not None


@pytest.mark.parametrize("outcome", [OSError("no such sensor"), {"load": object()}])
async def test_metrics_that_fail_do_not_stop_the_heart(
    outcome: object, peer: Peer, client_of: ClientMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """Heartbeats go without them, it is logged once, and the next that can be had is sent."""
    peer.heartbeat_interval = UNIT
    outcomes: list[object] = [outcome, outcome]

    def measure() -> dict[str, object]:
        given = outcomes.pop(0) if outcomes else {"load": 1}
        if isinstance(given, Exception):
            raise given
        assert isinstance(given, dict)
        return given

    async with client_of(heartbeat_metrics=measure, intervals_without_ack=PATIENCE / UNIT) as client:
        socket = await peer.socket()
        await socket.wait_for("heartbeat", 3)
        sent = [command.get("metrics") for command in socket.of_type("heartbeat")[:3]]
        assert sent == [None, None, {"load": 1}]
        assert client.is_online
    assert len([record for record in caplog.records if "heartbeat_metrics" in record.message]) == 1


async def test_own_interval_only_shortens_the_servers(peer: Peer, client_of: ClientMaker) -> None:
    """A longer interval of the client would let the server declare it dead."""
    peer.heartbeat_interval = 10.0
    for own, expected in ((2.0, 2.0), (60.0, 10.0)):
        async with client_of(heartbeat_interval=own) as client:
            assert client.heartbeats is not None
            assert client.heartbeats.interval == expected


async def test_state_changes_are_told_in_order(peer: Peer, client_of: ClientMaker) -> None:
    """A listener sees each state once, with the reason and the wait of a break."""
    changes: list[StateChange] = []
    client = client_of()
    client.on_state_change(changes.append)
    await client.connect()
    await (await peer.socket()).close(1012, "restart")
    await online_again(client)
    await client.close()
    assert [change.current.value for change in changes] == [
        "connecting",
        "online",
        "waiting",
        "connecting",
        "online",
        "stopped",
    ]
    assert "1012: restart" in str(changes[2].error)
    assert changes[2].retry_in is not None


async def test_subscriptions_made_at_the_moment_of_a_break_survive_it(
    peer: Peer, client_of: ClientMaker
) -> None:
    """Subscribing is repeated on the new connection instead of failing: twice does no harm."""

    async def drop_first(socket: PeerSocket, command: Command) -> bool:
        if command["type"] == "subscribe" and len(peer.sockets) == 1:
            socket.drop()
            return True
        return False

    peer.hook = drop_first
    async with client_of() as client:
        subscription = await client.subscribe("team")
        await peer.sockets[1].deliver("team", 1)
        assert (await subscription.get(PATIENCE)).data == 1


async def test_nothing_is_left_after_many_connections(peer: Peer, client_of: ClientMaker) -> None:
    """A closed client leaves no task behind, however often its connection broke."""
    before = asyncio.all_tasks()
    client = client_of()
    await client.connect()
    subscription = await client.subscribe("team")
    for number in range(1, 21):
        (await peer.socket(number)).drop()
        await online_again(client, number)
    await subscription.close()
    await client.close()
    ours = {task for task in asyncio.all_tasks() - before if "artcafe_agent" in repr(task.get_coro())}
    assert ours == set()


@pytest.mark.parametrize("kind", ["presence", "subscribe"])
async def test_break_while_restoring_is_no_connection(kind: str, peer: Peer, client_of: ClientMaker) -> None:
    """A client is online when everything is restored, not before: nobody publishes into the gap."""
    changes: list[StateChange] = []

    async def drop_second(socket: PeerSocket, command: Command) -> bool:
        if command["type"] == kind and len(peer.sockets) == 2:
            socket.drop()
            return True
        return False

    peer.hook = drop_second
    presence = Presence(status="online") if kind == "presence" else None
    async with client_of(on_state_change=changes.append, presence=presence) as client:
        if kind == "subscribe":
            await client.subscribe("a", "b", "c")
        (await peer.socket()).drop()
        await peer.socket(3)
        await online_again(client)
        states = [change.current.value for change in changes]
    away = ["waiting", "connecting"]
    assert states == ["connecting", "online", *away, *away, "online"]
    assert client.reconnects == 1


async def test_peer_that_stops_reading_is_given_up(peer: Peer, client_of: ClientMaker) -> None:
    """A heartbeat that cannot even be sent is silence too."""
    peer.heartbeat_interval = 2 * UNIT
    over = asyncio.Event()

    async def stop_reading(socket: PeerSocket, command: Command) -> bool:
        if command["type"] == "publish" and len(peer.sockets) == 1:
            await over.wait()
        return False

    peer.hook = stop_reading
    async with client_of() as client:

        async def flood() -> None:
            while client.reconnects == 0:
                await client.publish("team", "x" * 50_000, wait=False)

        flooding = asyncio.create_task(flood())
        try:
            await online_again(client)
        finally:
            over.set()
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)
