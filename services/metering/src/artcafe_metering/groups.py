"""Figures by agent or channel: packed as Valkey has them until they are needed, and worked on part by part.

A tenant may have hundreds of thousands of agents. As objects their figures are several times as large, and
one step over all of them would hold up everything else that the process does.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping

from artcafe_metering.batches import PERSON_PREFIX
from artcafe_metering.figures import Figures, counts
from artcafe_metering.keys import PACKED

# How many ids one step is about: some milliseconds.
PART_IDS = 500
_RUN_IDS = 10_000
_PERSON = PERSON_PREFIX.encode()

Part = Mapping[str, Figures]


class Groups:
    """The figures of one period by id."""

    def __init__(self) -> None:
        self._packed: dict[bytes, bytes] = {}
        # Sorted one by one and merged when they are read: sorting all at once would be a long step.
        self._runs: list[list[bytes]] = []
        self._fresh: list[bytes] = []
        self.people = 0

    def __len__(self) -> int:
        return len(self._packed)

    @property
    def active(self) -> int:
        """The number of ids that are not people's."""
        return len(self._packed) - self.people

    def take(self, chunk: Mapping[bytes, bytes]) -> None:
        """Add ids with their packed figures; of one that comes again the last figures count."""
        for name, value in chunk.items():
            if name not in self._packed:
                self._know(name)
            self._packed[name] = value
        self._close_run()

    def subtract(self, part: Part) -> None:
        """Take figures away; an id that comes to nothing is gone."""
        for name, figures in part.items():
            key = name.encode()
            held = self._packed.get(key)
            left = (unpacked(held) if held is not None else Figures()) - figures
            if left:
                if held is None:
                    self._know(key)
                self._packed[key] = PACKED.pack(*counts(left))
            elif held is not None:
                del self._packed[key]
                self.people -= key.startswith(_PERSON)
        self._close_run()

    def parts(self) -> Iterator[Part]:
        """Yield the figures, some ids at a time, in the order of the ids."""
        part: dict[str, Figures] = {}
        before: bytes | None = None
        for name in heapq.merge(*self._runs, sorted(self._fresh)):
            # One that was gone for a while may stand in two runs.
            if name == before or name not in self._packed:
                continue
            before = name
            part[name.decode()] = unpacked(self._packed[name])
            if len(part) == PART_IDS:
                yield part
                part = {}
        if part:
            yield part

    def _know(self, name: bytes) -> None:
        self._fresh.append(name)
        self.people += name.startswith(_PERSON)

    def _close_run(self) -> None:
        if len(self._fresh) >= _RUN_IDS:
            self._runs.append(sorted(self._fresh))
            self._fresh = []


class FirstIds:
    """The first so many ids behind one, of all that are offered in any order."""

    def __init__(self, after: str | None, number: int) -> None:
        self._after = after or ""
        self._number = number
        self._ids: set[str] = set()
        self._last: str | None = None

    def offer(self, ids: Iterable[str]) -> None:
        """Take those of some ids that are among the first."""
        last = self._last
        fresh = {each for each in ids if each > self._after and (last is None or each < last)}
        self._ids |= fresh
        if fresh and len(self._ids) >= self._number:
            first = heapq.nsmallest(self._number, self._ids)
            self._ids, self._last = set(first), first[-1]

    def ids(self) -> list[str]:
        """Return the ids in their order."""
        return sorted(self._ids)


def unpacked(value: bytes) -> Figures:
    """Return the figures of an id."""
    # A newer version may have put further figures behind ours.
    return Figures(*map(int, PACKED.unpack_from(value)))
