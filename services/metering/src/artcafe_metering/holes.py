"""Sources that have numbered a batch which does not come, while later ones do.

A batch that is late or tried again leaves a hole for minutes; a hole that stays for an hour is a batch that
was lost with its sender's disk, or was put aside. It is told of for a day: longer than that brings
nothing new.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

TOLD_SECONDS = 25 * 3600.0
_REMEMBERED = 100_000


@dataclass(slots=True)
class _Source:
    floor: int
    highest: int
    since: float
    told: bool = False


class Holes:
    """The holes that one replica has seen; `monotonic` gives seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._sources: dict[str, _Source] = {}

    def seen(self, source: str, floor: int, highest: int = 0) -> None:
        """Note up to which batch of a source all were applied, and the highest one that was."""
        known = self._sources.get(source)
        if known is not None:
            highest = max(highest, known.highest)
        if floor >= highest:
            self._sources.pop(source, None)
        elif known is None:
            if len(self._sources) < _REMEMBERED:
                self._sources[source] = _Source(floor, highest, self._monotonic())
        else:
            if floor > known.floor:
                known.floor, known.since, known.told = floor, self._monotonic(), False
            known.highest = highest

    def older_than(self, seconds: float) -> list[str]:
        """Return the sources with a hole that has been there for longer; forget those that were told of."""
        now = self._monotonic()
        for source in [name for name, each in self._sources.items() if now - each.since > TOLD_SECONDS]:
            del self._sources[source]
        return [name for name, each in self._sources.items() if now - each.since > seconds]

    def to_tell(self, seconds: float) -> list[str]:
        """Return those with a hole that has been there for longer and was not returned here before."""
        fresh = [name for name in self.older_than(seconds) if not self._sources[name].told]
        for name in fresh:
            self._sources[name].told = True
        return fresh

    def age(self) -> float:
        """Return for how many seconds the oldest hole has been there; 0 where there is none."""
        now = self._monotonic()
        return now - min((each.since for each in self._sources.values()), default=now)
