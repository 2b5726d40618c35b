"""The client against a peer that can fail in every way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from sdk_peer import UNIT, Command, Peer, PeerSocket, until

from artcafe_agent import (
    AckTimeout,
    AgentKey,
    ApiError,
    Client,
    ClientClosed,
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
    UnexpectedAnswer,
    Unreachable,
)

ClientMaker = Callable[..., Client]
SLOW = ReconnectPolicy(first_delay=100 * UNIT, longest_delay=100 * UNIT)


async def online_again(client: Client, reconnects: int = 1) -> None:
    """Wait until the client has come back."""
    await until(lambda: client.is_online and client.reconnects >= reconnects)


async def test_connects_with_a_signed_challenge(peer: Peer, client_of: ClientMaker) -> None:
    """The peer verifies the signature; the client knows its connection from the welcome."""
    async with client_of() as client:
        assert client.state == "online"
        assert client.traffic.connection_id == "c1"
        assert client.traffic.server_id == "peer"
        assert client.limits == {"bytes_per_message": 65536}
    assert client.state == "stopped"
    socket = await peer.socket()
    await socket.ended.wait()
    assert socket.close_code == 1000


async def test_publish_waits_for_the_acknowledgement(peer: Peer, client_of: ClientMaker) -> None:
    """A publish carries an id and returns what the peer acknowledged."""
    async with client_of() as client:
        published = await client.publish("team", {"n": 1})
        command = await (await peer.socket()).wait_for("publish")
        assert command == {"type": "publish", "id": command["id"], "channel": "team", "data": {"n": 1}}
        assert published is not None
        assert published.channel == "team"
        assert published.message_id
        assert client.traffic.messages_sent == 1


async def test_publish_without_waiting_sends_no_id(peer: Peer, client_of: ClientMaker) -> None:
    """Fire and forget gives the peer nothing to answer."""
    async with client_of() as client:
        assert await client.publish("team", None, wait=False, echo=False) is None
        command = await (await peer.socket()).wait_for("publish")
        assert command == {"type": "publish", "channel": "team", "data": None, "echo": False}


async def test_publish_of_what_is_no_json_sends_nothing(peer: Peer, client_of: ClientMaker) -> None:
    """Data that cannot be written as JSON is the caller's error, and the connection goes on."""
    async with client_of() as client:
        with pytest.raises(TypeError):
            await client.publish("team", object())
        await client.publish("team", 1)
        assert len((await peer.socket()).of_type("publish")) == 1


async def test_subscription_yields_messages_in_order(peer: Peer, client_of: ClientMaker) -> None:
    """Messages come as they were sent, with their channel and sender."""
    async with client_of() as client:
        subscription = await client.subscribe("team")
        socket = await peer.socket()
        for number in range(50):
            await socket.deliver("team", number)
        messages = [await subscription.get(20 * UNIT) for _ in range(50)]
        assert [message.data for message in messages] == list(range(50))
        assert {(message.channel, message.subject, message.sender) for message in messages} == {
            ("team", "team", "agent-2")
        }
        assert client.traffic.messages_received == 50


async def test_overlapping_subscriptions_each_get_a_message_once(peer: Peer, client_of: ClientMaker) -> None:
    """One delivery of the server goes to every local subscription that matches, once."""
    async with client_of() as client:
        exact = await client.subscribe("team.a", "team.*")
        wide = await client.subscribe("team.>")
        other = await client.subscribe("games.>")
        socket = await peer.socket()
        await socket.deliver("team.a", "first")
        await socket.deliver("team.a", "second")
        for subscription in (exact, wide):
            assert [(await subscription.get(20 * UNIT)).data for _ in range(2)] == ["first", "second"]
            assert subscription.waiting == 0
        assert other.waiting == 0


async def test_messages_come_under_the_name_the_server_confirmed(peer: Peer, client_of: ClientMaker) -> None:
    """A server may resolve the name that was asked for: its answer says what messages will carry."""

    async def resolve(socket: PeerSocket, command: Command) -> bool:
        if command["type"] == "subscribe":
            await socket.send(
                type="subscribed", channel="Team Updates", subject="team-updates", id=command["id"]
            )
            return True
        return False

    peer.hook = resolve
    async with client_of() as client:
        subscription = await client.subscribe("Team Updates")
        await (await peer.socket()).deliver("team-updates", 1)
        assert (await subscription.get(20 * UNIT)).data == 1


async def test_closing_one_of_two_subscriptions_keeps_the_channel(peer: Peer, client_of: ClientMaker) -> None:
    """The server is told to unsubscribe only when nobody wants the channel any more."""
    async with client_of() as client:
        first = await client.subscribe("team")
        second = await client.subscribe("team")
        socket = await peer.socket()
        await first.close()
        assert socket.of_type("unsubscribe") == []
        await socket.deliver("team", "still here")
        assert (await second.get(20 * UNIT)).data == "still here"
        with pytest.raises(StopAsyncIteration):
            await first.get(UNIT)
        await second.close()
        assert (await socket.wait_for("unsubscribe"))["channel"] == "team"


async def test_refused_command_is_a_typed_error(peer: Peer, client_of: ClientMaker) -> None:
    """An error frame raises at the caller whose command it answers, and nothing else breaks."""

    async def refuse(socket: PeerSocket, command: Command) -> bool:
        if command.get("channel") == "secret":
            await socket.send(
                type="error", code="permission_denied", message="no", error="no", id=command["id"]
            )
            return True
        return False

    peer.hook = refuse
    async with client_of() as client:
        for attempt in (client.subscribe("open", "secret"), client.publish("secret", 1)):
            with pytest.raises(CommandError) as caught:
                await attempt
            assert caught.value.code == "permission_denied"
            assert caught.value.message == "no"
            assert not caught.value.temporary
        assert await client.publish("open", 1)
        # All or nothing: what had been confirmed was taken back.
        assert (await (await peer.socket()).wait_for("unsubscribe"))["channel"] == "open"


async def test_refusal_nobody_waits_for_goes_to_on_error(peer: Peer, client_of: ClientMaker) -> None:
    """An error without an id reaches the listener; one that raises does not hurt the client."""
    errors: list[CommandError] = []

    async def refuse(socket: PeerSocket, command: Command) -> bool:
        if command["type"] == "publish" and "id" not in command:
            await socket.send(type="error", code="not_found", message="no such channel")
            return True
        return False

    def listen(error: CommandError) -> None:
        errors.append(error)
        raise ValueError("a bug of the listener")

    peer.hook = refuse
    async with client_of(on_error=listen) as client:
        await client.publish("nowhere", 1, wait=False)
        await client.publish("team", 1)
        assert [(error.code, error.message) for error in errors] == [("not_found", "no such channel")]


async def test_no_acknowledgement_in_time(peer: Peer, client_of: ClientMaker) -> None:
    """A publish that is not acknowledged says so, the late answer is ignored, and the next one works."""
    silenced: list[Command] = []

    async def stay_silent(socket: PeerSocket, command: Command) -> bool:
        if command["type"] == "publish" and not silenced:
            silenced.append(command)
            return True
        return False

    peer.hook = stay_silent
    async with client_of() as client:
        with pytest.raises(AckTimeout, match="unknown") as caught:
            await client.publish("team", 1, timeout=2 * UNIT)
        assert isinstance(caught.value, TimeoutError)
        await (await peer.socket()).send(
            type="published", channel="team", message_id="m", id=silenced[0]["id"]
        )
        assert await client.publish("team", 2)


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
        assert (await subscription.get(20 * UNIT)).data == "question"
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
        assert (await private.get(UNIT)).data == "last"
        with pytest.raises(CommandError, match="permission_denied"):
            await private.get(20 * UNIT)
        await peer.sockets[1].deliver("public", 1)
        assert (await public.get(20 * UNIT)).data == 1
        assert (await peer.sockets[1].wait_for("unsubscribe"))["channel"] == "also"


async def test_subscription_the_server_ends_ends_with_the_reason(peer: Peer, client_of: ClientMaker) -> None:
    """A grant that is taken away while connected ends its subscription and no other."""
    async with client_of() as client:
        private = await client.subscribe("private", "also")
        public = await client.subscribe("public")
        socket = await peer.socket()
        await socket.send(
            type="unsubscribed", channel="private", subject="private", reason="permission_denied"
        )
        with pytest.raises(CommandError, match="permission_denied"):
            await private.get(20 * UNIT)
        assert (await socket.wait_for("unsubscribe"))["channel"] == "also"
        await socket.deliver("public", 1)
        assert (await public.get(20 * UNIT)).data == 1


async def test_what_the_server_dropped_is_told(peer: Peer, client_of: ClientMaker) -> None:
    """The gap stands on the message that comes after it, as for messages dropped here."""
    async with client_of() as client:
        subscription = await client.subscribe("team.*")
        socket = await peer.socket()
        await socket.deliver("team.a", 1)
        await socket.send(type="dropped", channel="team.a", count=7, reason="slow consumer")
        await socket.deliver("team.a", 2)
        assert [(await subscription.get(20 * UNIT)).missed for _ in range(2)] == [0, 7]
        assert subscription.dropped == 7


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
        assert (await subscription.get(20 * UNIT)).data == 1


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
            await subscription.get(40 * UNIT)
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
    async with client_of(on_state_change=changes.append) as client:
        started = asyncio.get_running_loop().time()
        first = await peer.socket()
        await first.ended.wait()
        waited = asyncio.get_running_loop().time() - started
        assert 3 * UNIT < waited < 12 * UNIT
        peer.acknowledges_heartbeats = True
        await online_again(client)
        assert len(first.of_type("heartbeat")) == 2
        lost = next(change for change in changes if change.current is ConnectionState.WAITING)
        assert "no heartbeat_ack" in str(lost.error)


async def test_heartbeats_go_on_by_themselves(peer: Peer, client_of: ClientMaker) -> None:
    """Heartbeats follow the server's interval, carry the metrics, and keep the connection."""
    peer.heartbeat_interval = UNIT
    async with client_of(heartbeat_metrics=lambda: {"load": 1}) as client:
        socket = await peer.socket()
        command = await socket.wait_for("heartbeat", 6)
        assert command["metrics"] == {"load": 1}
        assert command["timestamp"].endswith("Z")
        assert client.reconnects == 0
        assert client.heartbeats is not None
        assert client.heartbeats.last_acknowledged is not None


async def test_own_interval_only_shortens_the_servers(peer: Peer, client_of: ClientMaker) -> None:
    """A longer interval of the client would let the server declare it dead."""
    peer.heartbeat_interval = 10.0
    for own, expected in ((2.0, 2.0), (60.0, 10.0)):
        async with client_of(heartbeat_interval=own) as client:
            assert client.heartbeats is not None
            assert client.heartbeats.interval == expected


@pytest.mark.parametrize(
    "frame",
    ["not json", "[1,2]", "17", '{"type":5}', "{}", '{"type":"message"}', '{"type":"published","id":{}}'],
)
async def test_garbage_is_ignored(frame: str, peer: Peer, client_of: ClientMaker) -> None:
    """A frame that cannot be read, or an event of tomorrow, disturbs nothing."""
    async with client_of() as client:
        socket = await peer.socket()
        await socket.socket.send(frame)
        await socket.send(type="event_of_tomorrow", channel="x")
        assert await client.publish("team", 1)
        assert client.reconnects == 0


async def test_binary_garbage_is_ignored(peer: Peer, client_of: ClientMaker) -> None:
    """Bytes that are no UTF-8 are no event."""
    async with client_of() as client:
        await (await peer.socket()).socket.send(b"\xff\xfe\x00")
        assert await client.publish("team", 1)


@pytest.mark.parametrize("welcome", [b"garbage", b'{"type":"pong"}', b'{"type":"welcome","limits":7}'])
async def test_peer_that_does_not_begin_with_a_welcome(
    welcome: bytes, peer: Peer, client_of: ClientMaker
) -> None:
    """What is no ArtCafe server is told so at the first connection."""
    peer.welcome = welcome
    with pytest.raises(UnexpectedAnswer):
        await client_of().connect()


async def test_peer_that_never_says_welcome(peer: Peer, client_of: ClientMaker) -> None:
    """A socket that is accepted and then silent does not hang the client."""
    peer.welcome = None
    with pytest.raises(Unreachable, match="said nothing"):
        await client_of(connect_timeout=2 * UNIT).connect()


async def test_wrong_key_is_refused(peer: Peer, client_of: ClientMaker) -> None:
    """The peer refuses after the upgrade, by its close code, as the real one does."""
    with pytest.raises(CredentialsRefused, match="bad credentials"):
        await client_of(private_key=AgentKey.generate()).connect()
    assert peer.sockets == []


@pytest.mark.parametrize(
    ("status", "code", "temporary"),
    [
        (400, "invalid_argument", False),
        (401, "unauthenticated", False),
        (404, "not_found", False),
        (429, "resource_exhausted", True),
        (503, "unavailable", True),
    ],
)
async def test_refused_challenge(
    status: int, code: str, temporary: bool, peer: Peer, client_of: ClientMaker
) -> None:
    """Problem details come through; only what may pass by itself is tried again."""
    problem = b'{"status":%d,"code":"%s","detail":"because","instance":"r1"}' % (status, code.encode())
    peer.challenge_answer = (status, {"Content-Type": "application/problem+json"}, problem)
    with pytest.raises(ApiError) as caught:
        await client_of().connect()
    assert (caught.value.status, caught.value.code, caught.value.detail) == (status, code, "because")
    assert caught.value.temporary is temporary


async def test_retry_after_is_obeyed(peer: Peer, client_of: ClientMaker) -> None:
    """A server that asks for time gets at least that."""
    peer.challenge_answer = (503, {"Retry-After": "0.3"}, b"")
    changes: list[StateChange] = []
    policy = ReconnectPolicy(first_delay=UNIT / 5, longest_delay=UNIT / 5, startup_patience=100 * UNIT)
    client = client_of(reconnect=policy, on_state_change=changes.append)
    connecting = asyncio.create_task(client.connect())
    await until(lambda: client.state is ConnectionState.WAITING)
    peer.challenge_answer = None
    await connecting
    waits = [change.retry_in for change in changes if change.retry_in is not None]
    assert len(waits) == 1
    assert 0.3 <= waits[0] < 0.3 + UNIT
    await client.close()


async def test_first_connection_is_tried_as_long_as_patience_allows(
    peer: Peer, client_of: ClientMaker
) -> None:
    """An agent may start before its server."""
    peer.challenge_answer = (503, {}, b"")
    policy = ReconnectPolicy(first_delay=UNIT / 5, longest_delay=UNIT / 2, startup_patience=4 * UNIT)
    with pytest.raises(ApiError, match="unavailable"):
        await client_of(reconnect=policy).connect()
    patient = ReconnectPolicy(first_delay=UNIT / 5, longest_delay=UNIT / 2, startup_patience=None)
    client = client_of(reconnect=patient)
    connecting = asyncio.create_task(client.connect())
    await asyncio.sleep(4 * UNIT)
    assert not connecting.done()
    peer.challenge_answer = None
    await asyncio.wait_for(connecting, 40 * UNIT)
    await client.close()


async def test_server_that_is_away_is_unreachable(client_of: ClientMaker, unused_tcp_port: int) -> None:
    """Without a server the first connection fails at once, and says where it was looked for."""
    client = client_of(base_url=f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(Unreachable, match=f"127.0.0.1:{unused_tcp_port}.*refused"):
        await client.connect()
    assert client.state is ConnectionState.FAILED


async def test_closing_while_connecting_is_prompt(peer: Peer, client_of: ClientMaker) -> None:
    """A server that accepts and says nothing does not hold up the end."""
    peer.welcome = None
    client = client_of(connect_timeout=1000 * UNIT)
    connecting = asyncio.create_task(client.connect())
    await peer.socket()
    async with asyncio.timeout(20 * UNIT):
        await client.close()
        with pytest.raises(ClientClosed):
            await connecting


async def test_closing_ends_subscriptions_after_what_was_received(peer: Peer, client_of: ClientMaker) -> None:
    """The iteration finishes normally, with everything that was there."""
    client = client_of()
    await client.connect()
    subscription = await client.subscribe("team")
    for number in range(3):
        await (await peer.socket()).deliver("team", number)
    await until(lambda: subscription.waiting == 3)
    await client.close()
    assert [message.data async for message in subscription] == [0, 1, 2]
    with pytest.raises(ClientClosed):
        await client.publish("team", 1)
    await client.close()


async def test_a_client_is_used_once(client_of: ClientMaker) -> None:
    """Reusing a client, or using it before it is connected, is an error and not a surprise."""
    client = client_of()
    with pytest.raises(ClientClosed, match="connect first"):
        await client.publish("team", 1)
    await client.connect()
    with pytest.raises(ClientClosed, match="make a new one"):
        await client.connect()
    await client.close()


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
        assert (await subscription.get(20 * UNIT)).data == 1


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
