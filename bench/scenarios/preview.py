"""One tenant's messages with and without dashboards that preview them: what watching costs its agents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median

from bench.findings import Finding, Outcome, against, as_details, cost, remarks_on
from bench.generator import Generator
from bench.lab import Lab, Sample, Samples, measured
from bench.processes import resident_bytes
from bench.stats import paired_ratio, percentile, spread

CHANNEL_ID = "watched"
# Enough to keep a gateway busy: what is measured is the dearest message, with one receiver.
IN_FLIGHT = 100
DASHBOARDS, DEAF = 10, 3
CPU_LIMIT = 1.10
LATENCY_LIMIT = 1.20
# What one dashboard may make a gateway keep: a write, its counts and its session.
MEMORY_LIMIT_MIB = 10.0
# Of what the servers manage at most, for a latency that is not that of a queue.
SUSTAINED = 0.7
# Times the usual number: a tenth is to be told from none.
ROUNDS = 2
GATEWAY = "gateway-1"


def preview(lab: Lab) -> Outcome:
    """Publish to one agent, in turns with ten dashboards that watch everything and with none."""
    lab.artcafe().provision(2)
    channel = lab.sockets(lab.artcafe(), CHANNEL_ID, 1)
    generator, effort = lab.generator, lab.effort
    names = (channel.publisher, channel.receivers)

    def paced(rate: float) -> Sample:
        generator.paced(*names, rate, effort.warm_up_seconds)
        return measured(channel.peer, lambda: generator.paced(*names, rate, 2 * effort.seconds))

    flooded = _Turns(lab, f"1 to 1, {IN_FLIGHT} in flight", lambda: lab.flood(channel, IN_FLIGHT))
    rate, remarks = _rate(lab, flooded.alone)
    steady = _Turns(lab, f"1 to 1, {rate:,.0f}/s", lambda: paced(rate))
    memory = Finding(
        what=f"memory of the gateway, grown by {DASHBOARDS} dashboards",
        value=spread(flooded.grown + steady.grown),
        unit="MiB",
        limit=MEMORY_LIMIT_MIB,
    )
    return Outcome(
        scenario="preview",
        findings=[*flooded.costs(), *steady.costs(), *steady.latencies(), memory],
        details={turns.what: as_details(turns.samples) for turns in (flooded, steady)},
        remarks=[*remarks, *remarks_on(flooded.samples), *remarks_on(steady.samples)],
    )


class _Turns:
    """One load with dashboards and without, round by round, and how much memory the dashboards took."""

    def __init__(self, lab: Lab, what: str, load: Callable[[], Sample]) -> None:
        lab.report(f"{what}, with {DASHBOARDS} dashboards and without")
        self.what = what
        self.alone: list[Sample] = []
        self.watched: list[Sample] = []
        self.grown: list[float] = []
        for number in range(ROUNDS * lab.effort.rounds):
            # Each comes first in every other round.
            if number % 2:
                self.alone.append(load())
            before = _memory(lab)
            with _dashboards(lab):
                self.watched.append(load())
                self.grown.append((_memory(lab) - before) / 2**20)
            if not number % 2:
                self.alone.append(load())

    @property
    def samples(self) -> Samples:
        """All samples by name."""
        return {"alone": self.alone, "watched": self.watched}

    def costs(self) -> list[Finding]:
        """Return what a message costs."""
        return [
            cost(f"{self.what}: no dashboard", self.alone, "µs CPU/message"),
            cost(f"{self.what}: {DASHBOARDS} dashboards, {DEAF} deaf", self.watched, "µs CPU/message"),
            against(f"{self.what}: CPU, watched / not", self.watched, self.alone, CPU_LIMIT),
        ]

    def latencies(self) -> list[Finding]:
        """Return how long messages took."""
        alone, watched = (
            [percentile(sample.latencies, 99.0) * 1000 for sample in samples]
            for samples in (self.alone, self.watched)
        )
        what = f"{self.what}: latency p99"
        return [
            Finding(what=f"{what}, no dashboard", value=spread(alone), unit="ms"),
            Finding(what=f"{what}, {DASHBOARDS} dashboards", value=spread(watched), unit="ms"),
            Finding(
                what=f"{what}, watched / not",
                value=paired_ratio(watched, alone),
                unit="x",
                limit=LATENCY_LIMIT,
            ),
        ]


def _rate(lab: Lab, samples: Sequence[Sample]) -> tuple[float, list[str]]:
    """Return the steady rate to measure at, and what is to be said of it."""
    most = median([sample.messages / sample.seconds for sample in samples])
    if most * SUSTAINED >= lab.effort.preview_rate:
        return lab.effort.preview_rate, []
    rate = max(100.0, round(most * SUSTAINED, -2))
    return rate, [
        f"this machine takes {most:,.0f} messages a second on one core of servers: measured at {rate:,.0f}"
        f" instead of {lab.effort.preview_rate:,.0f}; what dashboards cost each second is spread over fewer"
    ]


def _memory(lab: Lab) -> int:
    return resident_bytes(lab.artcafe().pids(GATEWAY)[GATEWAY])


@contextmanager
def _dashboards(lab: Lab) -> Iterator[None]:
    """Watch everything, some reading and some not, from a process of its own."""
    plans = lab.artcafe().dashboards(DASHBOARDS, deaf=DEAF)
    # It reads a few times a second, beside the generator that measures.
    with Generator(lab.generator_core, spin=False) as watchers:
        watchers.open("dashboards", plans)
        yield
