"""What a REST read costs the registry: a signed-in person reads agents, one after the other."""

from __future__ import annotations

from bench.findings import Finding, Outcome
from bench.lab import Lab
from bench.processes import CpuMeter
from bench.stats import spread

READ_LIMIT_MS = 1.0
AGENTS = 50
# Reads of each round for each agent.
READS = 4


def rest(lab: Lab) -> Outcome:
    """Measure `GET /agents/{id}`."""
    platform = lab.artcafe()
    lab.report("REST reads")
    agents = platform.platform.make_agents(AGENTS)
    pids = platform.pids("registry")
    costs = []
    for _ in range(lab.effort.rounds):
        meter = CpuMeter(pids)
        platform.platform.read_agents(agents * READS)
        costs.append(meter.used()["registry"] / (AGENTS * READS) * 1000)
    finding = Finding(
        what="GET /agents/{id}: registry", value=spread(costs), unit="ms CPU", limit=READ_LIMIT_MS
    )
    return Outcome(scenario="rest", findings=[finding])
