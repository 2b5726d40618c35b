"""Many agents that connect and then do nothing: what coming costs, and what staying costs."""

from __future__ import annotations

import time

from bench.findings import Finding, Outcome
from bench.lab import Lab
from bench.loadgen.wire import client_frame
from bench.processes import CpuMeter, resident_bytes
from bench.scenarios import growth
from bench.stats import spread

CONNECT_LIMIT_MS = 3.0
MEMORY_LIMIT_KIB = 16.0
HEARTBEAT_LIMIT_MS = 0.1
IDLE_CHANNEL_ID = "idle"
# Presence is written behind the agents' backs.
SETTLE_SECONDS = 1.0
GATEWAY = "gateway-1"
SERVICES = (GATEWAY, "auth", "registry", "metering", "nats", "valkey")
# Agents are signed in and connected so many at a time: a challenge holds for five minutes.
BATCH = 500


def agents(lab: Lab) -> Outcome:
    """Connect agents, with a challenge, its proof and a subscription each; then let them send heartbeats."""
    platform, total = lab.artcafe(), lab.effort.agents
    lab.report(f"registering {total} agents")
    platform.provision(total)
    # What the first connections set up once is not charged to each.
    lab.sockets(platform, "first", 1)
    pids = platform.pids(*SERVICES)
    memory = resident_bytes(pids[GATEWAY])
    meter = CpuMeter(pids)
    for channel, count in _channels(lab):
        lab.report(f"connecting {count} agents to {channel}")
        lab.receivers(platform, channel, count)
    time.sleep(SETTLE_SECONDS)
    connecting = {name: seconds / total * 1000 for name, seconds in meter.used().items()}
    grown = (resident_bytes(pids[GATEWAY]) - memory) / total / 1024
    idle = _idle(lab, pids)
    lab.report("heartbeats")
    heartbeat = _heartbeats(lab, pids[GATEWAY])
    findings = [
        Finding(
            what="connect, challenge, verify, subscribe: all services",
            value=spread([sum(connecting.values())]),
            unit="ms CPU/agent",
            limit=CONNECT_LIMIT_MS,
        ),
        *(
            Finding(what=f"  of it {name}", value=spread([value]), unit="ms CPU/agent")
            for name, value in connecting.items()
        ),
        Finding(
            what=f"resident memory of an idle agent ({total} of them)",
            value=spread([grown]),
            unit="KiB",
            limit=MEMORY_LIMIT_KIB,
        ),
        Finding(
            what=f"{total} idle agents, all services",
            value=spread([sum(idle.values()) * 100]),
            unit="% of a core",
        ),
        Finding(
            what="a heartbeat with its answer",
            value=spread(heartbeat),
            unit="ms CPU",
            limit=HEARTBEAT_LIMIT_MS,
            digits=4,
        ),
    ]
    details = {"connecting_ms": connecting, "idle_cores": idle}
    return Outcome(scenario="agents", findings=findings, details=details)


def _idle(lab: Lab, pids: dict[str, int]) -> dict[str, float]:
    """Return the share of a core that each process uses while agents do nothing."""
    idle_seconds = lab.effort.idle_seconds
    lab.report(f"doing nothing for {idle_seconds:g} s")
    meter = CpuMeter(pids)
    time.sleep(idle_seconds)
    return {name: seconds / idle_seconds for name, seconds in meter.used().items()}


def _channels(lab: Lab) -> list[tuple[str, int]]:
    """Return the channels to connect to: those that growth will need, the rest on one that stays silent."""
    channels = [(growth.CHANNEL_ID.format(size), size) for size in lab.effort.growth]
    rest = lab.effort.agents - sum(lab.effort.growth)
    full, part = divmod(rest, BATCH)
    sizes = [BATCH] * full + ([part] if part else [])
    return channels + [(f"{IDLE_CHANNEL_ID}-{number}", size) for number, size in enumerate(sizes, 1)]


def _heartbeats(lab: Lab, gateway: int) -> list[float]:
    """Return the milliseconds of CPU for one heartbeat, round by round."""
    platform = lab.artcafe()
    group = lab.receivers(platform, f"{IDLE_CHANNEL_ID}-1", 0)
    frame = client_frame(b'{"type":"heartbeat"}')
    costs = []
    for _ in range(lab.effort.rounds):
        meter = CpuMeter({GATEWAY: gateway})
        done = lab.generator.say(group, frame, b'"heartbeat_ack"', lab.effort.heartbeats)
        costs.append(meter.used()[GATEWAY] / done.count * 1000)
    return costs
