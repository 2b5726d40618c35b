"""What a benchmark has found: values with their targets, and the samples behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.lab import Sample, Samples
from bench.stats import Spread, paired_ratio, spread

# Above this the generator may have held the servers up, and a value about time says little.
BUSY_GENERATOR = 0.97


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One value; `limit` is what it should not exceed."""

    what: str
    value: Spread
    unit: str
    limit: float | None = None
    digits: int = 2

    @property
    def met(self) -> bool | None:
        """Whether the target is met, None where there is none."""
        return None if self.limit is None else self.value.median <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one scenario has found; `details` is for the file."""

    scenario: str
    findings: Sequence[Finding]
    details: Mapping[str, Any] = field(default_factory=dict)
    remarks: Sequence[str] = ()


def per_delivery(samples: Sequence[Sample]) -> list[float]:
    """Return the CPU microseconds per delivery of each round."""
    return [sample.per_delivery_us for sample in samples]


def cost(title: str, samples: Sequence[Sample], unit: str = "µs CPU/delivery") -> Finding:
    """Return what a delivery costs one peer."""
    return Finding(what=title, value=spread(per_delivery(samples)), unit=unit)


def against(what: str, ours: Sequence[Sample], theirs: Sequence[Sample], limit: float | None) -> Finding:
    """Return the ratio of two peers' costs."""
    ratio = paired_ratio(per_delivery(ours), per_delivery(theirs))
    return Finding(what=what, value=ratio, unit="x", limit=limit)


def remarks_on(samples: Samples) -> list[str]:
    """Return what a reader must know: a generator that was too busy."""
    return [
        f"the load generator was busy {max(s.generator_busy for s in of_peer):.0%} of the time with {name}"
        for name, of_peer in samples.items()
        if max(s.generator_busy for s in of_peer) > BUSY_GENERATOR
    ]


def as_details(samples: Samples) -> dict[str, Any]:
    """Return samples for the file; of the latencies only the summaries that the findings hold."""
    kept = {}
    for name, of_peer in samples.items():
        kept[name] = [
            {key: value for key, value in asdict(sample).items() if key != "latencies"} for sample in of_peer
        ]
    return kept
