"""What comes of comparing the counters of a day with its batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

from artcafe_metering.figures import Figures
from artcafe_metering.keys import Breakdown

Scope = Literal["tenant", Breakdown]
SCOPES: tuple[Scope, ...] = ("tenant", "agent", "channel")


@dataclass(frozen=True, slots=True)
class Part:
    """An agent or a channel whose counters are not what its batches come to."""

    name: str
    counted: Figures
    recounted: Figures


@dataclass(frozen=True, slots=True)
class Parts:
    """The agents or the channels of a tenant that differ: how many, and some of them by name."""

    number: int = 0
    named: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """A tenant of which something differs: in all, or only by agent or by channel."""

    tenant_id: str
    counted: Figures
    recounted: Figures
    parts: Mapping[Breakdown, Parts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs; for tenants, agents and channels how far each figure is off, added up without signs."""

    tenants: int
    differences: list[Difference] = field(default_factory=list)
    apart: Mapping[Scope, Figures] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of comparing a day; `stamp` is that of its counters when they were read."""

    day: date
    batches: int
    stamp: str
    comparison: Comparison

    @property
    def differences(self) -> list[Difference]:
        """The tenants that differ."""
        return self.comparison.differences
