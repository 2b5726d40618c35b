"""The users of NATS may do what their service does, and nothing else."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js.api import RePublish, StreamConfig
from nats.js.errors import APIError

from artcafe_common.streams import PRESENCE, USAGE, ensure_stream
from artcafe_devstack.repository import repository_root
from artcafe_devstack.servers import RunningServer, nats_server
from artcafe_devstack.state import NATS_USERS
from artcafe_metering.streams import USAGE_DEAD

# Who creates and changes each stream.
OWNERS = {"USAGE": "metering", "USAGE_DEAD": "metering", "PRESENCE": "registry"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Run NATS with the configuration of the stack and of the containers."""
    config = repository_root() / "deploy" / "nats" / "nats.conf"
    passwords = {f"NATS_{user.upper()}_PASSWORD": f"p-{user}".replace("-", "0") for user in NATS_USERS}
    with nats_server(tmp_path_factory.mktemp("nats"), config=config, env=passwords) as running:
        yield running


@asynccontextmanager
async def _as(server: RunningServer, user: str) -> AsyncIterator[tuple[Client, list[str]]]:
    """Connect as a service; what the server refuses is put into the list."""
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error).lower())

    client = await nats.connect(
        server.url,
        user=user,
        password=f"p0{user}",
        inbox_prefix=f"_INBOX_{user}".encode(),
        error_cb=note,
        connect_timeout=30,
    )
    # A server that waited too long for the login has said so, and was asked again.
    refused.clear()
    try:
        yield client, refused
    finally:
        await client.close()


async def _settled(client: Client) -> None:
    """Wait until the server has said what it has to say; its errors come before the answer to a PING."""
    await client.flush()
    await client.flush()
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "login", [{}, {"user": "auth", "pass": "wrong"}, {"user": "nobody", "pass": "p0auth"}, {"user": "auth"}]
)
def test_a_client_without_a_password_is_refused(server: RunningServer, login: dict[str, str]) -> None:
    """Nobody is let in by being on the same machine."""
    refusal = late = b"-ERR 'Authentication Timeout'\r\n"
    for _ in range(10):
        # The server waits for two seconds; who was later was not judged.
        if refusal == late:
            refusal = _refusal(server, login)
    assert refusal == b"-ERR 'Authorization Violation'\r\n"


def _refusal(server: RunningServer, login: dict[str, str]) -> bytes:
    """Log in and return what the server says before it closes."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as client,
        client.makefile("rb") as answer,
    ):
        assert answer.readline().startswith(b"INFO ")
        client.sendall(f"CONNECT {json.dumps({'verbose': False, **login})}\r\nPING\r\n".encode())
        refusal = answer.readline()
        assert answer.readline() == b""
        return refusal


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("auth", "tenant.t1.channel.c"),
        ("auth", "auth.v1.revoked"),
        ("auth", "usage.v1.batch.a"),
        ("auth", "registry.v1.tenant.get"),
        ("auth", "registry.v1.membership.get"),
        ("metering", "tenant.t1.channel.c"),
        ("metering", "metering.v1.months.get"),
        ("metering", "$JS.API.STREAM.NAMES"),
        ("metering", "$JS.API.DIRECT.GET.USAGE"),
        ("registry", "$JS.API.STREAM.MSG.GET.PRESENCE"),
        ("gateway", "auth.v1.revoked"),
        ("gateway", "registry.v1.changed.t1.agent.a"),
        ("metering", "registry.v1.changed.t1.agent.a"),
        ("registry", "gateway.v1.presence.t1.a"),
        ("auth", "gateway.v1.presence.t1.a"),
        ("registry", "tenant.t1.other"),
        ("gateway", "$JS.API.STREAM.DELETE.USAGE"),
        ("metering", "$JS.API.STREAM.PURGE.USAGE"),
        ("metering", "$JS.API.STREAM.MSG.DELETE.USAGE"),
        ("gateway", "$JS.API.STREAM.MSG.DELETE.USAGE_DEAD"),
        ("registry", "$JS.API.STREAM.DELETE.PRESENCE"),
        *(
            (user, f"$JS.API.STREAM.{verb}.{stream}")
            for stream, owner in OWNERS.items()
            for user in NATS_USERS
            for verb in ("CREATE", "UPDATE")
            if user != owner
        ),
        ("metering", "$JS.API.STREAM.CREATE.OTHER"),
        ("registry", "$JS.API.STREAM.UPDATE.OTHER"),
        ("auth", "_INBOX_gateway.somebody"),
    ],
)
async def test_publishing_outside_of_its_part_is_refused(
    server: RunningServer, user: str, subject: str
) -> None:
    """A service that is broken into cannot speak for another one."""
    async with _as(server, user) as (client, refused):
        await client.publish(subject, b"{}")
        await _settled(client)
        assert [text for text in refused if "permissions violation for publish" in text]


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("auth", "tenant.>"),
        ("metering", "tenant.>"),
        ("registry", "tenant.>"),
        ("auth", "registry.v1.agent.get"),
        ("auth", "registry.v1.changed.>"),
        ("metering", "registry.v1.changed.>"),
        ("registry", "auth.v1.revoked"),
        ("registry", "gateway.v1.presence.>"),
        ("metering", "auth.v1.agent.verify"),
        ("gateway", "registry.v1.agent.get"),
        ("registry", "usage.v1.batch.*"),
        ("gateway", ">"),
        ("metering", "_INBOX_gateway.>"),
        ("gateway", "_INBOX.>"),
    ],
)
async def test_listening_outside_of_its_part_is_refused(
    server: RunningServer, user: str, subject: str
) -> None:
    """A service cannot read another one's traffic, nor answer in its place."""
    async with _as(server, user) as (client, refused):
        await client.subscribe(subject)
        await _settled(client)
        assert [text for text in refused if "permissions violation for subscription" in text]


@pytest.mark.parametrize(
    ("asker", "owner", "subject"),
    [
        ("gateway", "auth", "auth.v1.agent.verify"),
        ("gateway", "auth", "auth.v1.jwks.get"),
        ("registry", "auth", "auth.v1.jwks.get"),
        ("metering", "auth", "auth.v1.jwks.get"),
        ("auth", "registry", "registry.v1.agent.get"),
        ("gateway", "registry", "registry.v1.agent.grants"),
        ("gateway", "registry", "registry.v1.agent.status"),
        ("gateway", "registry", "registry.v1.channel.resolve"),
        ("metering", "registry", "registry.v1.membership.get"),
        ("gateway", "registry", "registry.v1.tenant.get"),
        ("registry", "metering", "metering.v1.months.get"),
        ("gateway", "metering", "platform.v1.health.metering"),
        ("gateway", "gateway", "platform.v1.health.gateway"),
        ("gateway", "gateway", "gateway.v1.sessions.gateway-1-x"),
    ],
)
async def test_the_services_can_ask_each_other(
    server: RunningServer, asker: str, owner: str, subject: str
) -> None:
    """Every question of the contracts reaches its owner, and the answer comes back."""
    async with _as(server, asker) as (client, refused), _as(server, owner) as (other, _):
        subscription = await other.subscribe(subject, queue=owner)
        await _settled(other)
        question = asyncio.create_task(client.request(subject, b"?", timeout=30))
        message = await subscription.next_msg(timeout=30)
        await other.publish(message.reply, b"!")
        assert (await question).data == b"!"
        assert refused == []


async def test_events_reach_those_who_wait_for_them(server: RunningServer) -> None:
    """Changes, revocations, presence, live messages and hand-overs arrive where the contracts say."""
    events = [
        ("registry", "registry.v1.changed.t1.agent.a", ["registry", "gateway"]),
        ("registry", "auth.v1.revoked", ["gateway"]),
        ("gateway", "gateway.v1.presence.t1.a", ["gateway"]),
        ("gateway", "gateway.v1.replaced.gateway-1", ["gateway"]),
        ("gateway", "tenant.t1.channel.a.b", ["gateway"]),
        ("registry", "tenant.t1.channel.a.b", ["gateway"]),
    ]
    async with AsyncExitStack() as stack:
        clients = {user: (await stack.enter_async_context(_as(server, user)))[0] for user in NATS_USERS}
        for speaker, subject, listeners in events:
            waiting = [await clients[name].subscribe(subject) for name in listeners]
            for name in listeners:
                await _settled(clients[name])
            await clients[speaker].publish(subject, b"x")
            for subscription in waiting:
                assert (await subscription.next_msg(timeout=30)).subject == subject
                await subscription.unsubscribe()


async def test_usage_goes_through_its_stream(server: RunningServer) -> None:
    """Metering makes the stream and consumes the batches that a gateway publishes, acknowledged."""
    async with _as(server, "gateway") as (gateway, refused), _as(server, "metering") as (metering, denied):
        await ensure_stream(metering.jetstream(timeout=30), USAGE)
        await gateway.jetstream(timeout=30).publish(
            "usage.v1.batch.g1", b"batch", headers={"Nats-Msg-Id": "g1:1"}
        )
        subscription = await metering.jetstream(timeout=30).pull_subscribe(
            "usage.v1.batch.*", durable="metering", stream="USAGE"
        )
        [message] = await subscription.fetch(1, timeout=30)
        await message.ack_sync(timeout=30)
        assert message.data == b"batch"
        assert refused == denied == []


async def test_metering_puts_back_what_it_has_put_aside(server: RunningServer) -> None:
    """It reads USAGE_DEAD, publishes a batch again, and takes it out."""
    async with _as(server, "metering") as (metering, refused):
        jetstream = metering.jetstream(timeout=30)
        await ensure_stream(jetstream, USAGE)
        await ensure_stream(jetstream, USAGE_DEAD)
        await jetstream.publish("usage.v1.dead.g1", b"batch")
        message = await jetstream.get_msg("USAGE_DEAD", seq=1, subject="usage.v1.dead.>", next=True)
        await jetstream.publish("usage.v1.batch.g1", message.data or b"")
        await jetstream.delete_msg("USAGE_DEAD", message.seq or 0)
        assert (await jetstream.stream_info("USAGE_DEAD")).state.messages == 0
        assert refused == []


async def test_presence_is_kept_for_the_registry(server: RunningServer) -> None:
    """The registry reads the last presence of each agent, also what was said while it was away."""
    async with _as(server, "registry") as (registry, refused), _as(server, "gateway") as (gateway, denied):
        jetstream = registry.jetstream(timeout=30)
        await ensure_stream(jetstream, PRESENCE)
        await gateway.publish("gateway.v1.presence.t1.a", b"online")
        await gateway.flush()
        subscription = await jetstream.pull_subscribe(
            "gateway.v1.presence.>", durable="registry", stream="PRESENCE"
        )
        [message] = await subscription.fetch(1, timeout=30)
        await message.ack_sync(timeout=30)
        assert message.data == b"online"
        assert refused == denied == []


@pytest.mark.parametrize("user", [user for user in NATS_USERS if user != "metering"])
async def test_usage_stays_what_metering_made_it(server: RunningServer, user: str) -> None:
    """No other service can shrink the stream, or have it copy the customers' messages to where it listens."""
    hostile = USAGE.evolve(
        max_msgs=1,
        subjects=["usage.v1.batch.*", "tenant.>"],
        republish=RePublish(src="tenant.>", dest=f"{user}.v1.leak.>"),
    )
    async with _as(server, "metering") as (metering, _), _as(server, user) as (client, refused):
        await ensure_stream(metering.jetstream(timeout=30), USAGE)
        before = (await metering.jetstream(timeout=30).stream_info("USAGE")).config
        for change in (client.jetstream(timeout=0.3).update_stream, client.jetstream(timeout=0.3).add_stream):
            with pytest.raises((APIError, TimeoutError)):
                await change(hostile)
        await _settled(client)
        assert len(refused) == 2
        assert (await metering.jetstream(timeout=30).stream_info("USAGE")).config == before


@pytest.mark.parametrize("stream", [USAGE, USAGE_DEAD, PRESENCE], ids=lambda stream: stream.name)
async def test_the_owner_puts_its_stream_right(server: RunningServer, stream: StreamConfig) -> None:
    """Its service may make a stream and bring it to its settings again."""
    async with _as(server, OWNERS[stream.name or ""]) as (client, refused):
        jetstream = client.jetstream(timeout=30)
        await ensure_stream(jetstream, stream)
        await jetstream.update_stream(stream.evolve(max_age=1200.0, duplicate_window=60.0))
        await ensure_stream(jetstream, stream)
        assert (await jetstream.stream_info(stream.name or "")).config.max_age == stream.max_age
        assert refused == []


async def test_nobody_answers_is_told_at_once(server: RunningServer) -> None:
    """A question to a service that is away fails fast instead of running into its deadline."""
    async with _as(server, "gateway") as (client, _):
        with pytest.raises(NoRespondersError):
            await client.request("registry.v1.agent.get", b"?", timeout=30)


async def test_a_stream_cannot_be_deleted(server: RunningServer) -> None:
    """The stream that billing rests on is out of reach of the services that write to it."""
    async with _as(server, "gateway") as (client, refused):
        with pytest.raises((APIError, TimeoutError)):
            await client.jetstream(timeout=0.3).delete_stream("USAGE")
        await _settled(client)
        assert refused


def test_the_configuration_holds_no_password(tmp_path: Path) -> None:
    """What is in the repository lets nobody in: passwords come from the environment."""
    text = (repository_root() / "deploy" / "nats" / "nats.conf").read_text()
    assert [line for line in text.splitlines() if "password:" in line]
    assert all("password: $NATS_" in line for line in text.splitlines() if "password:" in line)
