"""Closed hours and days in DynamoDB: what was counted when they were closed, and what came later.

Table `usage-metrics`. A closed period has entries, which are written once and never changed: number 0 is
what was counted until its grace had passed, every further one an adjustment, the difference that late batches
made. What a period comes to is the sum of its entries.

| `scope` | `item` | holds |
|---|---|---|
| `<tenant>#hour`, `#day` | `<period>#<number>` | the figures of an entry, active ids until then, `parts` |
| `<tenant>#hour#agent`, `#channel`, `#day#...` | `<period>#<number>#<parts>#<n>` | its figures per id, JSON |

`<period>` is `YYYY-MM-DD` or `YYYY-MM-DDTHH`. The items of a breakdown are written before their entry, under
a name of the writer's own (`parts`): of two replicas which write the same entry one wins, and what the other
has written belongs to no entry and is not read. All items expire by `expires_at`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import msgspec

from artcafe_common.dynamo import ConditionFailed, Dynamo, Item, TableSpec
from artcafe_common.ids import new_ulid
from artcafe_metering.figures import Figures, counts, total
from artcafe_metering.groups import Part
from artcafe_metering.keys import BREAKDOWNS, FIGURES, Breakdown, Kind

USAGE_METRICS = TableSpec("usage-metrics", "scope", "item", ttl="expires_at")

_LAST = "~"
_PARTS_PER_WRITE = 10

# An item has at most 400 KB; an id has at most 300 characters, its figures less than 100: hence at most
# `PART_IDS` ids in a part. They are in their order, in a part and over all parts.
Parts = Mapping[Breakdown, Iterable[Part]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a closed period; number 0 closed it, the others are adjustments."""

    period: str
    number: int
    figures: Figures
    active_agents: int
    active_channels: int
    recorded_at: float
    parts: str


def period_name(kind: Kind, start: datetime) -> str:
    """Return a period as the table names it."""
    return f"{start:%Y-%m-%dT%H}" if kind == "hour" else f"{start:%Y-%m-%d}"


def period_start(name: str) -> datetime:
    """Return the beginning of a period by its name."""
    return datetime.strptime(name, "%Y-%m-%dT%H" if "T" in name else "%Y-%m-%d").replace(tzinfo=UTC)


class Rolled:
    """The closed periods."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._table = dynamo.table(USAGE_METRICS)

    async def has_any(self) -> bool:
        """Tell whether any period was closed until some hours ago. Raises: ServiceError ``unavailable``."""
        return await self._table.count() > 0

    async def entries(self, tenant_id: str, kind: Kind, first: str, last: str) -> list[Entry]:
        """Return all entries of the periods from `first` to `last`, in their order."""
        return [_entry(item) async for item in self._between(f"{tenant_id}#{kind}", first, last)]

    async def breakdown(
        self, tenant_id: str, kind: Kind, by: Breakdown, entries: Sequence[Entry]
    ) -> AsyncIterator[tuple[Entry, dict[str, Figures]]]:
        """Yield the figures per agent or channel of entries, which are in their order, in parts."""
        if not entries:
            return
        known = {entry.parts: entry for entry in entries}
        scope = f"{tenant_id}#{kind}#{by}"
        async for item in self._between(scope, entries[0].period, entries[-1].period):
            entry = known.get(item["item"].split("#")[2])
            if entry is not None:
                decoded = msgspec.json.decode(item["figures"], type=dict[str, list[int]])
                yield entry, {name: Figures(*counts[: len(FIGURES)]) for name, counts in decoded.items()}

    async def add(
        self,
        tenant_id: str,
        kind: Kind,
        period: str,
        number: int,
        figures: Figures,
        groups: Parts,
        active: Mapping[Breakdown, int],
        now: float,
        expires_at: int,
    ) -> bool:
        """Write an entry; False where there is one of this number already."""
        parts = new_ulid()
        written: list[dict[str, str]] = []
        for by in BREAKDOWNS:
            scope, name = f"{tenant_id}#{kind}#{by}", f"{period}#{number:04d}#{parts}"
            written += await self._write_parts(scope, name, groups[by], expires_at)
        item: Item = {
            "scope": f"{tenant_id}#{kind}",
            "item": f"{period}#{number:04d}",
            "active_agents": active["agent"],
            "active_channels": active["channel"],
            "recorded_at": now,
            "parts": parts,
            "expires_at": expires_at,
        }
        try:
            await self._table.put(item | asdict(figures), "attribute_not_exists(#scope)")
        except ConditionFailed as failure:
            # The client's own second attempt finds what the first has written.
            if failure.item is not None and failure.item.get("parts") == parts:
                return True
            await self._table.delete_many(written)
            return False
        return True

    async def _write_parts(
        self, scope: str, name: str, parts: Iterable[Part], expires_at: int
    ) -> list[dict[str, str]]:
        """Write a breakdown, a few items at a time; return their keys."""
        keys: list[dict[str, str]] = []
        items: list[Item] = []
        for number, part in enumerate(parts):
            key = {"scope": scope, "item": f"{name}#{number:04d}"}
            text = msgspec.json.encode({each: counts(figures) for each, figures in part.items()}).decode()
            items.append({**key, "figures": text, "expires_at": expires_at})
            keys.append(key)
            if len(items) == _PARTS_PER_WRITE:
                await self._table.put_many(items)
                items = []
        await self._table.put_many(items)
        return keys

    async def _between(self, scope: str, first: str, last: str) -> AsyncIterator[Item]:
        position: Item | None = None
        condition = "#scope = :scope AND #item BETWEEN :first AND :last"
        values = {"scope": scope, "first": first, "last": f"{last}#{_LAST}"}
        while True:
            page = await self._table.query(condition, values, position=position, consistent=True)
            for item in page.items:
                yield item
            if page.position is None:
                return
            position = page.position


def sums(entries: Iterable[Entry]) -> dict[str, Figures]:
    """Return what each period comes to."""
    found: dict[str, list[Figures]] = {}
    for entry in entries:
        found.setdefault(entry.period, []).append(entry.figures)
    return {period: total(parts) for period, parts in found.items()}


def _entry(item: Item) -> Entry:
    period, number = item["item"].split("#")
    return Entry(
        period=period,
        number=int(number),
        figures=Figures(*(item[name] for name in FIGURES)),
        active_agents=item["active_agents"],
        active_channels=item["active_channels"],
        recorded_at=item["recorded_at"],
        parts=item["parts"],
    )
