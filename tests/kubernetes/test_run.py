"""The programs of production's pods, as real processes with what the manifests give them, on this machine.

Only addresses and ports are others: there is no cluster here. Sockets and traffic are tested elsewhere; this
is about what the cluster does to a pod: it starts it, asks its probes, and ends it.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import nats
import pytest
from nats.errors import Error as NatsError

from artcafe_devstack.nats_cluster import NatsCluster, nats_cluster
from artcafe_devstack.ports import free_port
from artcafe_devstack.process import ManagedProcess, ProcessSpec
from artcafe_devstack.servers import AwsEndpoint, aws_emulator, valkey_server

from ..integration.aws_support import aws_client
from .manifests import SERVICES, Manifests, Object, Pod

PATIENCE_SECONDS = 90.0
# An identity provider that nobody asks: nothing listens there.
ISSUERS = '[{"issuer": "https://127.0.0.1:9/nobody", "audiences": ["none"]}]'


class Site:
    """The stores, and the environment of each container with their addresses in it."""

    def __init__(self, manifests: Manifests, secrets: dict[str, dict[str, str]], folder: Path) -> None:
        self.manifests = manifests
        self._secrets = secrets
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Site:
        folder = self._folder
        self.cluster: NatsCluster = self._stack.enter_context(nats_cluster(_made(folder / "nats")))
        self.valkey = self._stack.enter_context(valkey_server(folder / "valkey", password="p0valkey"))
        self.aws = AwsEndpoint(self._stack.enter_context(aws_emulator(folder / "aws", durable=False)).url)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def environment(self, pod: Pod, container: Object) -> dict[str, str]:
        """Return what a container is started with, where it is started here."""
        files = self.manifests.files(pod, container, self._secrets)
        # Where nothing is mounted but what may be missing, there is an empty folder.
        folders = {mount["mountPath"] for mount in container["volumeMounts"]}
        found = self.manifests.environment(pod, container)
        for name, value in list(found.items()):
            if value in files:
                text = files[value]
                if name == "NATS_PASSWORD_FILE":
                    text = f"p0{found['NATS_USER']}"
                elif name == "REDIS_URL_FILE":
                    text = self.valkey.url
                elif name == "AUTH_ISSUERS_FILE":
                    text = ISSUERS
                path = _made(self._folder / pod.name) / value.replace("/", "_")
                path.write_text(text)
                found[name] = str(path)
            elif value.startswith("/state") or value in folders:
                found[name] = str(_made(self._folder / pod.name)) + value
                _made(Path(found[name]))
        # The nearest thing to a region of AWS.
        return {**found, "NATS_URL": self.cluster.url, **self.aws.environment()}


class Started:
    """A service, and where its HTTP is."""

    def __init__(self, site: Site, service: str, folder: Path) -> None:
        module, _, prefix = SERVICES[service]
        self.pod = site.manifests.pod(service)
        (self.container,) = self.pod.containers
        self.port = free_port()
        environment = site.environment(self.pod, self.container) | {f"{prefix}HTTP_PORT": str(self.port)}
        if service == "gateway-ws":
            environment["GATEWAY_WS_PORT"] = str(free_port())
        self.process = ManagedProcess(
            ProcessSpec(
                name=service,
                argv=[sys.executable, "-m", module],
                env=environment,
                log=folder / f"{service}.log",
                ready=lambda: self.probe("readiness") == 200,
                start_seconds=PATIENCE_SECONDS,
                stop_seconds=self.pod.spec["terminationGracePeriodSeconds"],
            )
        )

    def probe(self, kind: str) -> int:
        """Ask what the cluster asks; 0 where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", self.container[f"{kind}Probe"]["httpGet"]["path"])
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def wait(self, kind: str, status: int) -> None:
        """Wait until a probe says something."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := self.probe(kind)) != status:
            assert time.monotonic() < deadline, f"{self.pod.name}: {kind} says {found}, not {status}"
            assert self.process.exit_status() is None, f"{self.pod.name}{self.process.last_words()}"
            time.sleep(0.1)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def site(
    built: dict[str, Manifests],
    secrets: dict[str, dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Production's stores."""
    with Site(built["production"], secrets, tmp_path_factory.mktemp("site")) as running:
        yield running


def _play_job(site: Site, **environment: str) -> dict[str, tuple[int, str]]:
    """Do as the kubelet does with the Job's pod; return how each container ended, and what it said."""
    pod = site.manifests.pod("tables")
    ended: dict[str, tuple[int, str]] = {}
    first = [each["name"] for each in pod.spec.get("initContainers", [])]
    for container in pod.containers:
        # Those that come first have to end well, each before the next.
        if any(ended[name][0] != 0 for name in first if name in ended):
            break
        module, _, _ = SERVICES[container["name"]]
        done = subprocess.run(
            [sys.executable, "-m", module, *container["args"]],
            env={"PATH": os.environ["PATH"], **site.environment(pod, container), **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        ended[container["name"]] = done.returncode, f"{done.stderr}{done.stdout}"
    return ended


def _make_tables(site: Site) -> None:
    for name, (status, said) in _play_job(site).items():
        assert status == 0, f"{name}: {said}"


def test_the_job_makes_the_tables_and_may_do_so_again(site: Site) -> None:
    """It needs the stores alone, and finds nothing to do the second time."""
    _make_tables(site)
    _make_tables(site)


async def test_a_table_that_needs_a_person_keeps_no_others_from_being_made(site: Site) -> None:
    """An index that no release uses any more, say, is told of at each release and is nobody's fault."""
    # Another account, where nothing is yet; names of buckets are everybody's.
    aws = replace(site.aws, access_key_id="000000000001")
    buckets = {"METERING_EXPORT_BUCKET": "their-exports", "METERING_BACKUP_BUCKET": "their-backups"}
    async with aws_client("dynamodb", aws) as dynamodb:
        await dynamodb.create_table(
            TableName="artcafe-Challenges",
            AttributeDefinitions=[
                {"AttributeName": "id", "AttributeType": "S"},
                {"AttributeName": "former", "AttributeType": "S"},
            ],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            GlobalSecondaryIndexes=[
                {
                    "IndexName": "by-former",
                    "KeySchema": [{"AttributeName": "former", "KeyType": "HASH"}],
                    "Projection": {"ProjectionType": "ALL"},
                }
            ],
            BillingMode="PAY_PER_REQUEST",
        )
        ended = await asyncio.to_thread(_play_job, site, **aws.environment(), **buckets)
        assert {name: status for name, (status, _) in ended.items()} == {
            name: 3 if name == "auth" else 0 for name in SERVICES
        }
        assert "by-former, which no service uses" in ended["auth"][1]
        await dynamodb.describe_table(TableName="artcafe-usage-metrics")


@pytest.fixture
def services(site: Site, tmp_path: Path) -> Iterator[dict[str, Started]]:
    """All four services, ready."""
    _make_tables(site)
    started = {name: Started(site, name, tmp_path) for name in SERVICES}
    try:
        for each in started.values():
            each.process.start()
        for each in started.values():
            each.process.wait_ready()
        yield started
    finally:
        for each in started.values():
            each.process.kill()


async def _replicas(cluster: NatsCluster, user: str, streams: tuple[str, ...]) -> dict[str, int]:
    client = await nats.connect(
        cluster.url.split(","), user=user, password=f"p0{user}", inbox_prefix=f"_INBOX_{user}".encode()
    )
    found: dict[str, int] = {}
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(found) < len(streams):
                for name in streams:
                    try:
                        info = await client.jetstream().stream_info(name)
                    except (NatsError, TimeoutError):
                        await asyncio.sleep(0.2)
                        continue
                    found[name] = info.config.num_replicas or 1
    finally:
        await client.close()
    return found


def test_the_platform_starts_outlives_nats_and_ends(site: Site, services: dict[str, Started]) -> None:
    """Every probe says yes; without NATS only readiness says no; on SIGTERM each ends in its grace period."""
    for each in services.values():
        assert (each.probe("startup"), each.probe("liveness")) == (200, 200)
    # All that is published to is on three servers.
    asked = _replicas(site.cluster, "metering", ("USAGE", "USAGE_DEAD"))
    assert asyncio.run(asked) == {"USAGE": 3, "USAGE_DEAD": 3}
    assert asyncio.run(_replicas(site.cluster, "gateway", ("PRESENCE",))) == {"PRESENCE": 3}

    for server in site.cluster.servers.values():
        server.kill()
    for each in services.values():
        each.wait("readiness", 503)
    for each in services.values():
        assert each.probe("liveness") == 200
    site.cluster.start()
    for each in services.values():
        each.wait("readiness", 200)
        assert each.probe("liveness") == 200

    for name, each in services.items():
        each.process.ask_to_stop()
        assert each.process.wait_stopped(each.process.spec.stop_seconds), name
        assert each.process.exit_status() == 0, each.process.last_words(20)


def test_a_pod_that_starts_without_nats_waits_for_it(site: Site, tmp_path: Path) -> None:
    """It is alive all the time and ready when NATS comes, so nothing kills it meanwhile."""
    _make_tables(site)
    for server in site.cluster.servers.values():
        server.kill()
    started = [Started(site, name, tmp_path) for name in SERVICES]
    try:
        for each in started:
            each.process.start()
        for each in started:
            each.wait("startup", 200)
            each.wait("readiness", 503)
            assert each.probe("liveness") == 200
        site.cluster.start()
        for each in started:
            each.wait("readiness", 200)
    finally:
        for each in started:
            each.process.kill()
