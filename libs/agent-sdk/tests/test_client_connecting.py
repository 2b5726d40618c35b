"""Connecting and closing, against a peer that refuses in every way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from sdk_peer import PATIENCE, UNIT, Command, Peer, PeerSocket, online_again, until

from artcafe_agent import (
    AgentKey,
    ApiError,
    Client,
    ClientClosed,
    ConnectionState,
    CredentialsRefused,
    ReconnectPolicy,
    StateChange,
    UnexpectedAnswer,
    Unreachable,
)

ClientMaker = Callable[..., Client]


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
    # The limit is for each step: on a busy machine one before the welcome may be late for a short one.
    for limit in (2 * UNIT, 20 * UNIT, PATIENCE):
        with pytest.raises(Unreachable) as caught:
            await client_of(connect_timeout=limit).connect()
        if "said nothing" in str(caught.value):
            break
    assert f"said nothing for {limit:g} s" in str(caught.value)


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
    policy = ReconnectPolicy(first_delay=UNIT / 5, longest_delay=UNIT / 5, startup_patience=2 * PATIENCE)
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
    await asyncio.wait_for(connecting, PATIENCE)
    await client.close()


async def test_server_that_is_away_is_unreachable(client_of: ClientMaker, closed_port: int) -> None:
    """Without a server the first connection fails at once, and says where it was looked for."""
    client = client_of(base_url=f"http://127.0.0.1:{closed_port}")
    with pytest.raises(Unreachable, match=f"127.0.0.1:{closed_port}.*refused"):
        await client.connect()
    assert client.state is ConnectionState.FAILED


async def test_closing_while_connecting_is_prompt(peer: Peer, client_of: ClientMaker) -> None:
    """A server that accepts and says nothing does not hold up the end."""
    peer.welcome = None
    client = client_of(connect_timeout=1000 * UNIT)
    connecting = asyncio.create_task(client.connect())
    await peer.socket()
    async with asyncio.timeout(PATIENCE):
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


async def test_secrets_reach_no_log(
    peer: Peer, client_of: ClientMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """No challenge, no signature and no payload, not even at the most talkative level."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("websockets").setLevel(logging.DEBUG)
    signatures: list[str] = []

    async def garbage(socket: PeerSocket, command: Command) -> bool:
        assert socket.socket.request is not None
        signatures.append(parse_qs(urlsplit(socket.socket.request.path).query)["signature"][0])
        await socket.socket.send("not json, but payload-of-the-peer")
        return False

    peer.hook = garbage
    async with client_of() as client:
        subscription = await client.subscribe("team")
        await client.publish("team", "payload-of-ours")
        await subscription.get(PATIENCE)
        (await peer.socket()).drop()
        await online_again(client)
    ours = [record for record in caplog.records if record.name.startswith("artcafe_agent")]
    assert len(ours) > 5
    text = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in ours)
    for secret in [*peer.challenges, *signatures, quote(signatures[0], safe=""), "payload-of"]:
        assert secret not in text
