"""Three servers of NATS, started as Kubernetes starts them: one user per service, streams on all three."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
import yaml
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import StreamInfo

from artcafe_common.bus import Bus
from artcafe_common.clock import SystemClock
from artcafe_common.contracts.metering import UsageBatch
from artcafe_common.errors import ServiceError
from artcafe_common.streams import PRESENCE, USAGE, ensure_stream
from artcafe_common.usage import UsageCounter, UsageReporter
from artcafe_devstack.nats_cluster import NatsCluster, nats_cluster
from artcafe_devstack.process import ManagedProcess
from artcafe_devstack.repository import repository_root
from artcafe_metering import metrics
from artcafe_metering.valkey import Valkey
from artcafe_metering.watching import Watch, missing_copies

from .common_support import until

# Servers find each other and choose leaders; a busy machine takes its time.
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    """Run a cluster."""
    with nats_cluster(tmp_path_factory.mktemp("nats-cluster")) as running:
        yield running


@asynccontextmanager
async def _as(cluster: NatsCluster, user: str) -> AsyncIterator[Bus]:
    bus = await Bus.open(cluster.url, name=user, user=user, password=f"p0{user}")
    try:
        yield bus
    finally:
        await bus.close_gracefully()


async def _whole(jetstream: JetStreamContext, name: str) -> StreamInfo:
    """Wait until a stream is on three servers, all up to date, and return what is known of it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                info = await jetstream.stream_info(name)
            except (NatsError, TimeoutError):
                await asyncio.sleep(0.2)
                continue
            others = info.cluster.replicas or [] if info.cluster else []
            if len(others) == 2 and all(other.current for other in others):
                return info
            await asyncio.sleep(0.1)


async def _usage_stream(bus: Bus, replicas: int) -> None:
    """Make sure of the stream as services do: again until there is a leader who may make one."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                await ensure_stream(bus.jetstream(), USAGE, replicas)
                return
            except (NatsError, TimeoutError):
                await asyncio.sleep(0.2)


async def test_a_stream_that_was_on_one_server_gains_the_others(cluster: NatsCluster) -> None:
    """What an installation of one server has made grows with the cluster, and never shrinks by itself."""
    async with _as(cluster, "metering") as metering:
        await _usage_stream(metering, 1)
        await _usage_stream(metering, 3)
        assert (await _whole(metering.jetstream(), "USAGE")).config.num_replicas == 3
        await _usage_stream(metering, 1)
        assert (await _whole(metering.jetstream(), "USAGE")).config.num_replicas == 3


async def test_the_users_are_kept_apart_on_every_server(cluster: NatsCluster) -> None:
    """Each server knows each service by its password, and lets it do its own part only."""
    for address in cluster.addresses:
        refused: list[str] = []

        async def note(error: Exception, refused: list[str] = refused) -> None:
            refused.append(str(error))

        client = await nats.connect(
            f"nats://{address}", user="metering", password="p0metering", error_cb=note
        )
        try:
            for subject in ("usage.v1.dead", "auth.v1.revoked", "$JS.API.STREAM.DELETE.USAGE"):
                await client.publish(subject, b"{}")
            await client.flush()
            await client.flush()
        finally:
            await client.close()
        assert len(refused) == 2 and "auth.v1.revoked" in refused[0], refused


async def test_nobody_joins_without_the_routes_password(cluster: NatsCluster) -> None:
    """The password of a service is none of the servers'."""
    host, _, port = cluster.servers["nats-0"].spec.env["NATS_CLUSTER_LISTEN"].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await reader.readline()).startswith(b"INFO ")
            claims = {"cluster": "artcafe", "name": "x", "user": "gateway", "pass": "p0gateway"}
            writer.write(f"CONNECT {json.dumps(claims)}\r\nPING\r\n".encode())
            answer = await reader.readline()
            while answer.startswith((b"INFO ", b"PING")):
                answer = await reader.readline()
            assert answer.startswith(b"-ERR 'Authorization Violation'")
    finally:
        writer.close()


async def test_usage_goes_on_when_a_server_is_killed(cluster: NatsCluster) -> None:
    """With the stream's leader dead, batches are still taken, each once, and it catches up afterwards."""
    async with _as(cluster, "gateway") as bus, _as(cluster, "metering") as metering:
        await _usage_stream(metering, 3)
        jetstream = metering.jetstream()
        before = await _whole(jetstream, "USAGE")
        assert before.cluster is not None and before.cluster.leader is not None
        leader = cluster.servers[before.cluster.leader]
        counter = UsageCounter(SystemClock())
        reporter = UsageReporter(bus, counter)

        async def send(number: int) -> None:
            for _ in range(number):
                counter.message(counter.now(), "t1", "a1", "c1", 10)
                await reporter._round()

        await send(5)
        leader.kill()
        try:
            await send(20)
            await asyncio.wait_for(reporter.finish(PATIENCE_SECONDS), PATIENCE_SECONDS)
            assert not reporter._waiting
        finally:
            leader.start()
            leader.wait_ready()
        after = await _whole(jetstream, "USAGE")
        messages = 0
        for seq in range(before.state.last_seq + 1, after.state.last_seq + 1):
            stored = await jetstream.get_msg("USAGE", seq)
            batch = msgspec.json.decode(stored.data or b"", type=UsageBatch)
            messages += sum(row.messages for row in batch.rows)
        assert messages == 25


async def test_a_server_that_is_lost_is_counted(cluster: NatsCluster, valkey_url: str) -> None:
    """Metering sees one of three missing while usage goes on, and that it is back."""
    async with _as(cluster, "metering") as metering:
        await _usage_stream(metering, 3)
        before = await _whole(metering.jetstream(), "USAGE")
        assert before.cluster is not None
        valkey = Valkey(valkey_url, 1)
        watch = Watch(valkey, metering.jetstream(), 3)

        async def missing(number: int) -> None:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    with suppress(ServiceError):
                        await watch.look_at_copies()
                        if metrics.COPIES_MISSING._value.get() == number:
                            return
                    await asyncio.sleep(0.2)

        await missing(0)
        (follower, *_) = (each.name for each in before.cluster.replicas or [])
        assert follower is not None
        cluster.servers[follower].kill()
        try:
            await missing(1)
        finally:
            cluster.servers[follower].start()
            cluster.servers[follower].wait_ready()
        await missing(0)
        assert missing_copies(StreamInfo.from_response(_alone()), 3) == 2, "one server, three wanted"
        assert missing_copies(StreamInfo.from_response(_alone()), 1) == 0
        await valkey.close()


def _alone() -> dict[str, Any]:
    """Return what a server without a cluster tells of a stream."""
    state = {"messages": 0, "bytes": 0, "first_seq": 0, "last_seq": 0, "consumer_count": 0}
    return {"config": {"name": "USAGE", "num_replicas": 1}, "state": state}


async def test_messages_go_on_when_the_server_of_a_client_is_killed(cluster: NatsCluster) -> None:
    """A gateway whose server dies is with another one soon, with all that it had subscribed to."""
    async with _as(cluster, "gateway") as publisher, _as(cluster, "gateway") as subscriber:
        heard: list[bytes] = []
        await subscriber.subscribe_direct("tenant.t1.channel.c1", lambda _, payload: heard.append(payload))
        await subscriber.flush()
        lost = asyncio.Event()
        subscriber.on_lost(lost.set)
        place = subscriber.connected_url
        assert place is not None
        number = cluster.addresses.index(f"{place.hostname}:{place.port}")
        server = cluster.servers[f"nats-{number}"]
        server.kill()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await lost.wait()
                while not heard:
                    # It may have been with that server, too.
                    with suppress(ServiceError):
                        publisher.publish_nowait("tenant.t1.channel.c1", b"after")
                    await asyncio.sleep(0.05)
        finally:
            server.start()
            server.wait_ready()
        await until(lambda: publisher.is_connected and subscriber.is_connected, PATIENCE_SECONDS)


async def test_presence_is_kept_on_three_servers(cluster: NatsCluster) -> None:
    """The registry may make its stream there, too."""
    async with _as(cluster, "registry") as bus:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    await ensure_stream(bus.jetstream(), PRESENCE, 3)
                    break
                except (NatsError, TimeoutError):
                    await asyncio.sleep(0.2)
        assert PRESENCE.name is not None and USAGE.name is not None
        assert (await _whole(bus.jetstream(), PRESENCE.name)).config.num_replicas == 3


async def test_a_server_that_lost_its_disk_is_filled_by_the_others(cluster: NatsCluster) -> None:
    """It comes back empty under its name, and has every batch again."""
    async with _as(cluster, "metering") as metering:
        await _usage_stream(metering, 3)
        jetstream = metering.jetstream()
        await jetstream.publish("usage.v1.batch.lost-disk", b"{}")
        before = await _whole(jetstream, "USAGE")
        server = cluster.servers["nats-1"]
        store = Path(server.spec.argv[server.spec.argv.index("--store_dir") + 1])
        server.kill()
        shutil.rmtree(store / "jetstream")
        server.start()
        server.wait_ready()
        after = await _whole(jetstream, "USAGE")
        assert after.state.messages >= before.state.messages
        # By what it has itself, not by what the leader says of it.
        async with asyncio.timeout(PATIENCE_SECONDS):
            while _messages(_page(server, "/jsz?streams=1")) < before.state.messages:
                await asyncio.sleep(0.2)


def test_a_full_disk_is_told_of_before_nothing_is_stored_any_more(cluster: NatsCluster) -> None:
    """A server takes three quarters of what it finds, of which the alert for its disk must know."""
    server = cluster.servers["nats-0"]
    about = _page(server, "/jsz")
    free = shutil.disk_usage(server.spec.argv[server.spec.argv.index("--store_dir") + 1]).free
    share = about["config"]["max_storage"] / (free + about["storage"])
    # Others write to this disk, too.
    assert 0.6 < share < 0.9
    text = (repository_root() / "deploy" / "monitoring" / "alerts.yaml").read_text()
    groups = yaml.safe_load(text)["groups"]
    (asked,) = [r["expr"] for g in groups for r in g["rules"] if r["alert"] == "ArtCafeDiskFilling"]
    (left,) = re.findall(r"data-nats-[^ ]* < ([0-9.]+)", asked)
    assert float(left) >= 1.1 * (1 - 0.75)


def _port(server: ManagedProcess) -> str:
    """Return where a server tells of itself."""
    return server.spec.argv[server.spec.argv.index("--http_port") + 1]


def _page(server: ManagedProcess, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{_port(server)}{path}", timeout=5) as answer:
        return json.load(answer)


def _messages(page: Any) -> int:
    return sum(
        int(stream["state"]["messages"])
        for account in page.get("account_details") or []
        for stream in account.get("stream_detail") or []
        if stream["name"] == "USAGE"
    )


def _asked(server: ManagedProcess, command: list[str]) -> int:
    """Return what a server's page of health answers to a probe of Kubernetes."""
    try:
        with urllib.request.urlopen(command[-1].replace(":8222/", f":{_port(server)}/"), timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


async def test_a_server_alone_is_alive_and_not_ready(cluster: NatsCluster) -> None:
    """The loss of the other two is no reason to kill it: what it has is then all that there is."""
    text = (repository_root() / "k8s" / "base" / "nats.yaml").read_text()
    (container,) = list(yaml.safe_load_all(text))[1]["spec"]["template"]["spec"]["containers"]
    probes = {kind: container[f"{kind}Probe"]["exec"]["command"] for kind in ("readiness", "liveness")}
    left, *others = cluster.servers.values()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while _asked(left, probes["readiness"]) != 200:
            await asyncio.sleep(0.2)
    for other in others:
        other.kill()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while _asked(left, probes["readiness"]) == 200:
                await asyncio.sleep(0.2)
        assert _asked(left, probes["liveness"]) == 200
    finally:
        for other in others:
            other.start()
        for other in others:
            other.wait_ready()


async def test_a_password_is_changed_one_server_after_the_other(tmp_path: Path) -> None:
    """Pods with the old one stay with servers that know it, pods with the new one find those that do."""
    with nats_cluster(tmp_path) as cluster:
        async with _as(cluster, "gateway") as old:
            cluster.set_password("gateway", "p1gateway")
            *first, last = cluster.servers.values()
            for server in first:
                server.stop()
                server.start()
                server.wait_ready()
                async with asyncio.timeout(PATIENCE_SECONDS):
                    new = await Bus.open(cluster.url, name="new", user="gateway", password="p1gateway")
                await new.close_gracefully()
            knows = int(last.spec.argv[last.spec.argv.index("--port") + 1])

            def stays() -> bool:
                place = old.connected_url
                return old.is_connected and place is not None and place.port == knows

            await until(stays, PATIENCE_SECONDS)
