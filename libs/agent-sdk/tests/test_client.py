"""Publishing and subscribing on one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from sdk_peer import PATIENCE, UNIT, Command, Peer, PeerSocket, until

from artcafe_agent import (
    AckTimeout,
    Client,
    CommandError,
)

ClientMaker = Callable[..., Client]


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
        messages = [await subscription.get(PATIENCE) for _ in range(50)]
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
            assert [(await subscription.get(PATIENCE)).data for _ in range(2)] == ["first", "second"]
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
        assert (await subscription.get(PATIENCE)).data == 1


async def test_closing_one_of_two_subscriptions_keeps_the_channel(peer: Peer, client_of: ClientMaker) -> None:
    """The server is told to unsubscribe only when nobody wants the channel any more."""
    async with client_of() as client:
        first = await client.subscribe("team")
        second = await client.subscribe("team")
        socket = await peer.socket()
        await first.close()
        assert socket.of_type("unsubscribe") == []
        await socket.deliver("team", "still here")
        assert (await second.get(PATIENCE)).data == "still here"
        with pytest.raises(StopAsyncIteration):
            await first.get(PATIENCE)
        await second.close()
        assert (await socket.wait_for("unsubscribe"))["channel"] == "team"


async def test_channel_that_is_wanted_again_is_not_unsubscribed(peer: Peer, client_of: ClientMaker) -> None:
    """Who subscribes while a subscription of several channels is being closed keeps the channel."""
    may_answer = asyncio.Event()

    async def answer_late(socket: PeerSocket, command: Command) -> bool:
        if command["type"] == "unsubscribe":
            asyncio.get_running_loop().create_task(answer(socket, command))
            return True
        return False

    async def answer(socket: PeerSocket, command: Command) -> None:
        await may_answer.wait()
        await socket.send(type="unsubscribed", channel=command["channel"], id=command["id"])

    peer.hook = answer_late
    async with client_of() as client:
        first = await client.subscribe("one", "two")
        socket = await peer.socket()
        closing = asyncio.create_task(first.close())
        await socket.wait_for("unsubscribe")
        again = await client.subscribe("two")
        may_answer.set()
        await closing
        # The peer holds back its answers, not what it does: it has to be told in this order.
        told = [(command["type"], command["channel"]) for command in socket.commands if "channel" in command]
        assert told.index(("unsubscribe", "two")) < len(told) - 1 - told[::-1].index(("subscribe", "two"))
        await socket.deliver("two", "still here")
        assert (await again.get(PATIENCE)).data == "still here"


async def test_late_answer_does_not_end_a_new_subscription(peer: Peer, client_of: ClientMaker) -> None:
    """That one has left a channel is no news that one may not read it any more."""
    held: list[str] = []

    async def hold(socket: PeerSocket, command: Command) -> bool:
        if command["type"] == "unsubscribe":
            held.append(command["id"])
            return True
        return False

    peer.hook = hold
    async with client_of(command_timeout=5 * UNIT) as client:
        first = await client.subscribe("team", timeout=PATIENCE)
        await first.close()
        again = await client.subscribe("team", timeout=PATIENCE)
        socket = await peer.socket()
        await socket.send(type="unsubscribed", channel="team", id=held[0])
        await client.publish("elsewhere", "the peer's answer comes after that", timeout=PATIENCE)
        assert not again.ended
        await socket.deliver("team", "still here")
        assert (await again.get(PATIENCE)).data == "still here"


@pytest.mark.parametrize("cancelled", [False, True])
async def test_subscribing_to_a_silent_server_takes_no_longer_than_asked(
    cancelled: bool, peer: Peer, client_of: ClientMaker
) -> None:
    """Whether the client's own time is over or its caller's, what is taken back is not waited for."""

    async def be_silent(socket: PeerSocket, command: Command) -> bool:
        return command["type"] in ("subscribe", "unsubscribe")

    peer.hook = be_silent
    async with client_of(command_timeout=1000 * PATIENCE) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(PATIENCE) as patience:
                if cancelled:
                    async with asyncio.timeout(UNIT):
                        await client.subscribe("one", "two")
                else:
                    await client.subscribe("one", "two", timeout=UNIT)
        await (await peer.socket()).wait_for("unsubscribe", 2)
        assert not patience.expired()


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


async def test_refusal_by_the_plan_says_which_limit(peer: Peer, client_of: ClientMaker) -> None:
    """Plan and numbers are there for programs and for people, waited for or not; it is not worth a retry."""
    quota = {"resource": "messages_per_month", "current": 10, "limit": 10, "plan": "free"}
    errors: list[CommandError] = []

    async def refuse(socket: PeerSocket, command: Command) -> bool:
        if command["type"] == "publish":
            answer = {"type": "error", "code": "resource_exhausted", "message": "used up", **quota}
            await socket.send(**answer, id=command.get("id"))
            return True
        return False

    peer.hook = refuse
    async with client_of(on_error=errors.append) as client:
        await client.publish("room", 1, wait=False)
        with pytest.raises(
            CommandError, match=r"used up \(resource messages_per_month, current 10"
        ) as caught:
            await client.publish("room", 1)
    for error in (caught.value, *errors):
        assert (error.extra, error.temporary) == (quota, False)
    assert len(errors) == 1


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
        await until(lambda: bool(silenced))
        await (await peer.socket()).send(
            type="published", channel="team", message_id="m", id=silenced[0]["id"]
        )
        assert await client.publish("team", 2)


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
            await private.get(PATIENCE)
        assert (await socket.wait_for("unsubscribe"))["channel"] == "also"
        await socket.deliver("public", 1)
        assert (await public.get(PATIENCE)).data == 1


async def test_what_the_server_dropped_is_told(peer: Peer, client_of: ClientMaker) -> None:
    """The gap stands on the message that comes after it, as for messages dropped here."""
    async with client_of() as client:
        subscription = await client.subscribe("team.*")
        socket = await peer.socket()
        await socket.deliver("team.a", 1)
        await socket.send(type="dropped", channel="team.a", count=7, reason="slow consumer")
        await socket.deliver("team.a", 2)
        assert [(await subscription.get(PATIENCE)).missed for _ in range(2)] == [0, 7]
        assert subscription.dropped == 7


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
