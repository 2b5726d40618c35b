"""The figures of a period, and how they add up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True)
class Figures:
    """What is counted, in the order of `keys.FIGURES`."""

    messages: int = 0
    deliveries: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    api_calls: int = 0
    connection_ms: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Figures) -> Figures:
        return Figures(*(mine - theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __bool__(self) -> bool:
        return any(astuple(self))


def total(parts: Iterable[Figures]) -> Figures:
    """Return the sum of figures."""
    return sum(parts, Figures())


def total_by_name(parts: Iterable[Mapping[str, Figures]]) -> dict[str, Figures]:
    """Return the sum of figures for each name."""
    sums: dict[str, Figures] = {}
    for part in parts:
        for name, figures in part.items():
            sums[name] = sums.get(name, Figures()) + figures
    return sums
