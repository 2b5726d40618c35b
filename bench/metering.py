"""``python -m bench.metering``: what it costs to account for a message, in CPU time of metering and Valkey.

Real nats-server, Valkey and metering; batches as gateways send them, of three kinds of load. What matters is
how many rows a batch has and how many messages stand in a row, so each kind says so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
from redis.asyncio import Redis

from artcafe_common.bus import Bus
from artcafe_common.contracts.metering import UsageBatch, UsageRow
from artcafe_common.streams import USAGE, ensure_stream
from artcafe_devstack.ports import free_port
from artcafe_devstack.probes import http_ready
from artcafe_devstack.servers import nats_server, valkey_server
from bench.processes import CpuMeter, machine_facts
from bench.stats import Spread, spread

TARGET_MESSAGES_PER_CPU_SECOND = 1_000_000
RESULTS = Path(__file__).parent / "results"
START_SECONDS = 30.0
WORK_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Load:
    """What is in one second of the platform's life: batches of some sources, and what is in their rows."""

    name: str
    sources: int
    tenants: int
    agents: int
    messages: int
    # One message in a row is the least that batching can do: its cost is told, without a target.
    batched: bool = True

    def rows(self) -> list[UsageRow]:
        """Return the rows of one batch: every agent publishes in its tenant's channel."""
        return [
            UsageRow(
                f"tenant-{tenant}",
                f"agent-{agent}",
                "team.updates",
                messages=self.messages,
                deliveries=10 * self.messages,
                bytes_in=200 * self.messages,
                bytes_out=2000 * self.messages,
                connection_seconds=1.0,
            )
            for tenant in range(self.tenants)
            for agent in range(self.agents)
        ]


LOADS = (
    Load("2 gateways at full load: 1 tenant, 200 agents, 100 messages/s each", 2, 1, 200, 100),
    Load("4 gateways, 20 tenants of 20 agents, 10 messages/s each", 4, 20, 20, 10),
    Load("4 gateways, 200 tenants of 1 agent, 1 message/s each", 4, 200, 1, 1, batched=False),
)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round has cost."""

    batches: int
    messages: int
    seconds: float
    metering_cpu: float
    valkey_cpu: float

    @property
    def per_cpu_second(self) -> float:
        """Messages accounted in a CPU second of both."""
        return self.messages / (self.metering_cpu + self.valkey_cpu)


@contextmanager
def metering(nats_url: str, redis_url: str, log: Path) -> Iterator[int]:
    """Run the service, and yield its process id when it is ready."""
    port = free_port()
    settings = {"NATS_URL": nats_url, "REDIS_URL": redis_url, "METERING_HTTP_PORT": str(port)}
    environment = {**os.environ, **settings}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "artcafe_metering"], env=environment, stdout=output, stderr=output
        )
    try:
        ready = http_ready(port, "/ready")
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"bench: metering did not start\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


async def measure(load: Load, seconds: int, rounds: int, always: bool) -> list[Round]:
    """Account for `seconds` of a load, several times."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="artcafe-bench-")))
        nats = stack.enter_context(nats_server(folder / "nats"))
        valkey = stack.enter_context(valkey_server(folder / "valkey"))
        if always:
            async with Redis.from_url(valkey.url) as redis:
                await redis.config_set("appendfsync", "always")
        bus = await Bus.open(nats.url, name="bench")
        await ensure_stream(bus.jetstream(), USAGE)
        pid = stack.enter_context(metering(nats.url, valkey.url, folder / "metering.log"))
        assert valkey.pid is not None
        found = [
            await _round(bus, load, seconds, {"metering": pid, "valkey": valkey.pid}, first)
            for first in range(1, rounds * seconds + 1, seconds)
        ]
        await bus.close_gracefully()
    return found


async def _round(bus: Bus, load: Load, seconds: int, pids: dict[str, int], first: int) -> Round:
    rows = load.rows()
    now = time.time()
    payloads = [
        (
            f"usage.v1.batch.source-{source}",
            msgspec.json.encode(
                UsageBatch(source=f"source-{source}", seq=seq, start=now, end=now + 1, rows=rows)
            ),
        )
        for seq in range(first, first + seconds)
        for source in range(load.sources)
    ]
    meter = CpuMeter(pids)
    started = time.monotonic()
    jetstream = bus.jetstream()
    for position in range(0, len(payloads), 50):
        await asyncio.gather(
            *(jetstream.publish(subject, data) for subject, data in payloads[position : position + 50])
        )
    while True:
        info = await jetstream.consumer_info("USAGE", "metering")
        if not info.num_pending and not info.num_ack_pending:
            break
        if time.monotonic() - started > WORK_SECONDS:
            raise SystemExit("bench: metering did not finish")
        await asyncio.sleep(0.1)
    used = meter.used()
    return Round(
        batches=len(payloads),
        messages=len(payloads) * sum(row.messages for row in rows),
        seconds=time.monotonic() - started,
        metering_cpu=used["metering"],
        valkey_cpu=used["valkey"],
    )


def _line(load: Load, found: list[Round]) -> tuple[str, Spread]:
    rate = spread([one.per_cpu_second for one in found])
    metering_us = spread([1e6 * one.metering_cpu / one.batches for one in found]).median
    valkey_us = spread([1e6 * one.valkey_cpu / one.batches for one in found]).median
    met = "" if not load.batched else "met" if rate.median >= TARGET_MESSAGES_PER_CPU_SECOND else "NOT MET"
    cost = f"{metering_us:7.0f} + {valkey_us:7.0f} µs/batch"
    return f"  {load.name:70} {rate.median:12,.0f} messages/CPU-s  {cost}  {met}".rstrip(), rate


def main() -> int:
    """Measure, print a table and keep a file."""
    parser = argparse.ArgumentParser(prog="python -m bench.metering", description=__doc__)
    parser.add_argument("--seconds", type=int, default=200, help="seconds of load in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--always", action="store_true", help="with `appendfsync always` in Valkey")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    options = parser.parse_args()
    outcomes: list[dict[str, Any]] = []
    print(f"accounting: CPU of metering + Valkey, target {TARGET_MESSAGES_PER_CPU_SECOND:,} messages/CPU-s")
    for load in LOADS:
        found = asyncio.run(measure(load, options.seconds, options.rounds, options.always))
        text, rate = _line(load, found)
        print(text, flush=True)
        outcomes.append(
            {"load": asdict(load), "rate": asdict(rate), "rounds": [asdict(one) for one in found]}
        )
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / time.strftime("metering-%Y%m%dT%H%M%SZ.json", time.gmtime())
    facts = machine_facts() | {"python": sys.version.split()[0], "appendfsync_always": options.always}
    path.write_text(json.dumps({"facts": facts, "outcomes": outcomes}, indent=1))
    print(f"kept in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
