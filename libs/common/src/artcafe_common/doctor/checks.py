"""What every service can look at: itself, NATS, clocks, streams, tables, limits of its process."""

from __future__ import annotations

import asyncio
import http.client
import os
import resource
import shutil
import time
from collections.abc import Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import msgspec
from botocore.exceptions import ClientError

from artcafe_common import __version__
from artcafe_common.bus import Bus
from artcafe_common.config import SharedConfig
from artcafe_common.doctor.findings import Check, Findings
from artcafe_common.dynamo import Dynamo
from artcafe_common.starting import cancel_all
from artcafe_common.streams import USAGE
from artcafe_common.tables import MENDABLE, Tables, TableSpec, care_of

NATS_SECONDS = 5.0
ANSWER_SECONDS = 5.0
# What a service found away, since it took a moment too long, is looked at once more.
LOOK_AGAIN_SECONDS = 1.0
# Tokens are taken within 30 seconds of their time, and each of two clocks may be off.
SKEW_WARN_SECONDS, SKEW_FAIL_SECONDS = 2.0, 10.0
DISK_FREE_WARN = 0.1
# Rows are lost, or a service cannot work: no matter of good housekeeping.
_GRAVE = frozenset({"missing", "index", "status", "keys", "index-keys", "ttl-unknown"})


class Surroundings:
    """What a service finds around it; a context manager, for the connection to NATS."""

    def __init__(self, service: str, config: SharedConfig) -> None:
        self.service = service
        self.config = config
        self.clock_offset: float | None = None
        self._bus: Bus | None = None

    async def __aenter__(self) -> Surroundings:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bus is not None:
            await self._bus.close_gracefully()

    def common(self, host: str, port: int, specs: Sequence[TableSpec], files: int) -> dict[str, Check]:
        """Return the checks that every service has."""
        return {
            "service": partial(self.process, host, port),
            "nats": self.nats,
            "clock": partial(self.clocks, specs),
            "tables": partial(self.tables, specs),
            "files": partial(self.files, files),
        }

    async def process(self, host: str, port: int, found: Findings) -> None:
        """Look at the service that runs here."""
        host = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
        answer = await asyncio.to_thread(_get, host, port, "/ready")
        if answer is not None and msgspec.json.decode(answer)["status"] == "down":
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            answer = await asyncio.to_thread(_get, host, port, "/ready")
        if answer is None:
            found.fail(
                f"does not answer on {host}:{port}",
                "see its log, and restart it if it still runs: only what ends is started again by itself",
                kind="silent",
            )
            return
        health = msgspec.json.decode(answer)
        away = [d["name"] for d in health["dependencies"] if d["status"] == "down"]
        if health["status"] == "down":
            found.fail(f"is not ready: {', '.join(away)}", "see to what it names; it is ready by itself then")
        elif health["status"] == "draining":
            found.warn("is stopping", "wait until it has ended")
        elif away:
            found.warn(f"is ready, but {', '.join(away)} is away", "see its log")
        else:
            found.ok(f"ready, version {health['version']}")
        if health["version"] != __version__:
            found.warn(f"runs {health['version']}, installed is {__version__}", "restart it")

    async def nats(self, found: Findings) -> None:
        """Look at the connection to NATS, as this service's user."""
        config = self.config
        opening = asyncio.create_task(
            Bus.open(
                config.nats_url,
                name=f"{self.service}-doctor",
                user=config.nats_user,
                password=config.nats_password.reveal() if config.nats_password else None,
            )
        )
        await asyncio.wait({opening}, timeout=NATS_SECONDS)
        if opening.done():
            self._bus = opening.result()
        else:
            await cancel_all({opening})
            if await _any_listens(config.nats_url):
                found.fail(
                    f"does not let the user {config.nats_user or '(none)'} in",
                    "NATS and the service must have the same password: recreate both after a change",
                )
            else:
                found.fail("cannot be reached", "see whether nats runs; the services wait for it")
            return
        info = self._bus._server_info
        if not info.get("jetstream"):
            found.fail(f"{info.get('server_name')} has no JetStream", "start it with deploy/nats/nats.conf")
        # A server without a name of its own is called by its key.
        named = "" if info["server_name"] == info["server_id"] else f"{info['server_name']}, "
        found.ok(f"{named}version {info['version']}, lets {config.nats_user or 'everybody'} in")

    async def clocks(self, specs: Sequence[TableSpec], found: Findings) -> None:
        """Compare this machine's clock with that of NATS and of AWS."""
        if self._bus is not None:
            before = time.time()
            answer = await self.stream_info(USAGE.name or "")
            if answer is not None and "ts" in answer:
                moment = datetime.fromisoformat(answer["ts"][:26].rstrip("Z") + "+00:00").timestamp()
                self.clock_offset = round(ahead_by(before, time.time(), moment, moment), 3)
                judge_skew(found, "NATS", self.clock_offset)
        before = time.time()
        told = await self._aws_time(specs[0])
        if told is not None:
            # A header tells whole seconds.
            judge_skew(found, "AWS", ahead_by(before, time.time(), told, told + 1))

    async def _aws_time(self, spec: TableSpec) -> float | None:
        async with self._dynamo() as dynamo:
            try:
                answer = await dynamo.client.describe_table(TableName=dynamo.prefix + spec.name)
            except ClientError as error:
                answer = error.response
        header = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return parsedate_to_datetime(header).timestamp() if header else None

    async def stream_info(self, name: str) -> dict[str, Any] | None:
        """Return what NATS tells of a stream; None where NATS is not there or has no such stream."""
        return await self.ask_nats(f"$JS.API.STREAM.INFO.{name}")

    async def ask_nats(self, subject: str) -> dict[str, Any] | None:
        """Return JetStream's answer to a question, as it is; None where NATS is away or refuses."""
        if self._bus is None:
            return None
        answer = await self._bus.request(subject, b"", timeout=ANSWER_SECONDS)
        decoded: dict[str, Any] = msgspec.json.decode(answer.data)
        return None if "error" in decoded else decoded

    async def stream(self, name: str, found: Findings) -> None:
        """Look at how a stream is kept."""
        if self._bus is None:
            found.warn(f"{name} cannot be looked at without NATS", "see to NATS first")
            return
        info = await self.stream_info(name)
        if info is None:
            found.fail(f"there is no stream {name}", "the services make it at their start: see their logs")
            return
        judge_stream(found, info, self.config.nats_stream_replicas)

    async def tables(self, specs: Sequence[TableSpec], found: Findings) -> None:
        """Compare the tables with what this service declares."""
        async with self._dynamo() as dynamo:
            tables = Tables(dynamo.client, dynamo.prefix, care_of(self.config, self.service), lambda *_: None)
            try:
                differences = await tables.check(specs)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if not code.startswith("AccessDenied"):
                    raise
                found.warn(f"may not be looked at ({code})", "give the role deploy/aws/iam's policy")
                return
        for difference in differences:
            cure = "make tables" if difference.kind in MENDABLE else "a person must decide: see the runbook"
            (found.fail if difference.kind in _GRAVE else found.warn)(str(difference), cure)
        if not differences:
            found.ok(f"{len(specs)} as declared")

    async def files(self, wanted: int, found: Findings) -> None:
        """Look at how many files a process may open here: each socket is one."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < wanted:
            found.warn(
                f"at most {hard} open files, {wanted} are wanted",
                "raise the limit of open files where it is started",
                kind="files",
            )
        else:
            found.ok("no limit" if hard == resource.RLIM_INFINITY else f"up to {hard}, {wanted} are wanted")

    async def state_folder(self, found: Findings) -> None:
        """Look at the folder for what must survive the process."""
        folder = self.config.artcafe_state_dir
        if folder is None:
            found.warn("there is none", "set ARTCAFE_STATE_DIR to a folder on a disk of its own")
        else:
            judge_folder(found, folder)

    def _dynamo(self) -> Any:
        config = self.config
        return Dynamo.connect(
            region=config.aws_region, endpoint_url=config.aws_endpoint_url, prefix=config.table_prefix
        )


def ahead_by(before: float, after: float, earliest: float, latest: float) -> float:
    """Return by how many seconds this clock is ahead of another one for certain; below 0: behind.

    The other one was asked at `before`, its answer was there at `after`, and it said that it was between
    `earliest` and `latest`. An answer that was long on its way makes no clock wrong.
    """
    return max(0.0, before - latest) + min(0.0, after - earliest)


def judge_skew(found: Findings, whose: str, offset: float) -> None:
    """Say how far a clock is off."""
    size = abs(offset)
    text = f"{size:.1f} s {'ahead of' if offset > 0 else 'behind'} {whose}"
    cure = "set the machine's clock by NTP; tokens are taken within 30 seconds only"
    if size > SKEW_FAIL_SECONDS:
        found.fail(text, cure)
    elif size > SKEW_WARN_SECONDS:
        found.warn(text, cure)
    else:
        found.ok(f"within {SKEW_WARN_SECONDS:.0f} s of {whose}")


def judge_stream(found: Findings, info: dict[str, Any], wanted: int) -> None:
    """Say how a stream is kept: on disk, on how many servers, and whether these follow."""
    config, cluster = info["config"], info.get("cluster") or {}
    name, copies = config["name"], config.get("num_replicas", 1)
    followers = cluster.get("replicas") or []
    behind = [r["name"] for r in followers if r.get("offline") or not r.get("current", True)]
    if config["storage"] != "file":
        found.fail(f"{name} is kept in memory", "remove it while nothing is in it; it is made anew on disk")
    if cluster and not cluster.get("leader"):
        found.fail(f"{name} has no leader", "more than half of the NATS servers must run")
    if copies < wanted:
        found.warn(f"{name} is on {copies} servers, not {wanted}", "restart the service that owns it")
    if behind:
        found.warn(f"{name}: {', '.join(sorted(behind))} does not follow", "see whether that server runs")
    else:
        state = info["state"]
        held = f"{state['messages']} messages, {state['bytes'] / 1_048_576:.1f} MB"
        found.ok(f"{name} on {copies} server{'s' if copies > 1 else ''}, {held}")


def judge_folder(found: Findings, folder: str) -> None:
    """Say whether a folder can be written and has room."""
    if not os.access(folder, os.W_OK | os.X_OK):
        found.fail(f"{folder} cannot be written", "it must belong to the user of the service")
        return
    usage = shutil.disk_usage(folder)
    share = usage.free / usage.total
    text = f"{folder}: {share:.0%} free ({usage.free / 1_073_741_824:.1f} GB)"
    if share < DISK_FREE_WARN:
        found.warn(text, "make room, or give it a larger disk")
    else:
        found.ok(text)


def _get(host: str, port: int, path: str) -> bytes | None:
    """Return the body of an answer whatever its status, None where nobody answers."""
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


async def _any_listens(urls: str) -> bool:
    for url in urls.split(","):
        parts = urlsplit(url.strip())
        try:
            async with asyncio.timeout(NATS_SECONDS):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port or 4222)
            writer.close()
            return True
        except (OSError, TimeoutError):
            continue
    return False
