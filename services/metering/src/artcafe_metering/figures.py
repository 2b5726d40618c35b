"""The figures of a period, and how they add up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter


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
        return Figures(*map(int.__add__, counts(self), counts(other)))

    def __sub__(self, other: Figures) -> Figures:
        return Figures(*map(int.__sub__, counts(self), counts(other)))

    def covers(self, other: Figures) -> bool:
        """Tell whether no figure is less than the other's."""
        return all(mine >= theirs for mine, theirs in zip(counts(self), counts(other), strict=True))

    def at_least(self, other: Figures) -> Figures:
        """Return the larger one of each figure."""
        return Figures(*map(max, counts(self), counts(other)))

    def __bool__(self) -> bool:
        return any(counts(self))

    def at_least_zero(self) -> Figures:
        """Return the figures with zeros where they are below."""
        return Figures(*(max(0, count) for count in counts(self)))


# Many times faster than `dataclasses.astuple`, which copies in depth.
counts: Callable[[Figures], tuple[int, ...]] = attrgetter(*Figures.__slots__)


def total(parts: Iterable[Figures]) -> Figures:
    """Return the sum of figures."""
    return sum(parts, Figures())


def total_by_name(parts: Iterable[Mapping[str, Figures]]) -> dict[str, Figures]:
    """Return the sum of figures for each name."""
    sums: dict[str, Figures] = {}
    for part in parts:
        for name, figures in part.items():
            sums[name] = sums[name] + figures if name in sums else figures
    return sums
