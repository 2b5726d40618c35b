"""Read the counters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from artcafe_common.errors import ServiceError, invalid, unavailable
from artcafe_metering import keys
from artcafe_metering.figures import Figures
from artcafe_metering.groups import FirstIds, Groups, unpacked
from artcafe_metering.keys import FIGURES, Breakdown
from artcafe_metering.valkey import WHAT, Valkey

# More than this in one answer is no answer but an export.
BROKEN_DOWN_MAX = 50_000
SCAN_KEYS = 10_000
# To find a page of ids all are looked at: more than this takes longer than clients wait.
PAGED_MAX = 1_000_000
# So few are read in one step, which is one moment to Valkey.
AT_ONCE_IDS = 2_000
PAGE_IDS = 1_000

# Counts in the server: the members themselves would be megabytes.
_COUNT_UNION = "return #redis.call('SUNION', unpack(KEYS))"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A period, in all and by id.

    `exact`: of one moment. Where it is not, something was counted while the ids were read: the figures are of
    the end of that, and at least what the ids come to.
    """

    figures: Figures
    groups: dict[Breakdown, Groups]
    exact: bool


@dataclass(frozen=True, slots=True)
class GroupPage:
    """Some ids in their order, and the figures of each period by id; `more` come behind them."""

    ids: list[str]
    groups: list[dict[str, Figures]]
    more: bool


class Counters(Protocol):
    """The reading side of the counters; periods without usage read as zeros."""

    async def figures(self, period_keys: Sequence[str]) -> list[Figures]:
        """Return the figures of each period."""
        ...

    async def broken_down(self, period_keys: Sequence[str], by: Breakdown) -> list[dict[str, Figures]]:
        """Return the figures of each period per agent or channel."""
        ...

    async def page(
        self, period_keys: Sequence[str], by: Breakdown, after: str | None, limit: int
    ) -> GroupPage:
        """Return the first so many agents or channels of some periods behind an id."""
        ...

    async def active(self, set_keys: Sequence[str]) -> list[int]:
        """Return the number of ids in each set."""
        ...

    async def active_in_all(self, set_keys: Sequence[str]) -> int:
        """Return the number of distinct ids in several sets of one tenant."""
        ...


class ValkeyCounters:
    """The counters in Valkey; keys as in `artcafe_metering.keys`."""

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey

    async def figures(self, period_keys: Sequence[str]) -> list[Figures]:
        """Return the figures of each period."""
        answers = await self._valkey.read(("HMGET", key, *FIGURES) for key in period_keys)
        return [_figures(values) for values in answers]

    async def broken_down(self, period_keys: Sequence[str], by: Breakdown) -> list[dict[str, Figures]]:
        """Return the figures of each period per agent or channel.

        Raises: ServiceError ``invalid_argument`` where that is too much for one answer.
        """
        sizes = await self.sizes(period_keys, by)
        if sum(sizes) > BROKEN_DOWN_MAX:
            raise too_many(by)
        found: list[dict[str, Figures]] = []
        for key, size in zip(period_keys, sizes, strict=True):
            found.append({})
            if size:
                async for chunk in self.chunks(key, by):
                    found[-1] |= {name.decode(): unpacked(value) for name, value in chunk.items()}
        return found

    async def sizes(self, period_keys: Sequence[str], by: Breakdown) -> list[int]:
        """Return how many agents or channels each period has."""
        return await self._valkey.read(("HLEN", keys.breakdown_key(key, by)) for key in period_keys)

    async def chunks(self, period_key: str, by: Breakdown) -> AsyncIterator[dict[bytes, bytes]]:
        """Yield the packed figures of a period by id, in steps; an id may come more than once."""
        name = keys.breakdown_key(period_key, by)
        cursor = 0
        while True:
            ((cursor, chunk),) = await self._valkey.read([("HSCAN", name, cursor, "COUNT", PAGE_IDS)])
            yield _by_id(chunk)
            if int(cursor) == 0:
                return

    async def offer(self, ids: FirstIds, period_key: str, by: Breakdown) -> None:
        """Offer the agents or channels of a period."""
        async for chunk in self.chunks(period_key, by):
            ids.offer([name.decode() for name in chunk])

    async def of_ids(self, period_key: str, by: Breakdown, ids: Sequence[str]) -> dict[str, Figures]:
        """Return the figures of those of some ids which have any in a period."""
        found: dict[str, Figures] = {}
        for first in range(0, len(ids), PAGE_IDS):
            some = ids[first : first + PAGE_IDS]
            (values,) = await self._valkey.read([("HMGET", keys.breakdown_key(period_key, by), *some)])
            pairs = zip(some, values, strict=True)
            found |= {name: unpacked(value) for name, value in pairs if value is not None}
        return found

    async def active(self, set_keys: Sequence[str]) -> list[int]:
        """Return the number of ids in each set."""
        return await self._valkey.read(("SCARD", key) for key in set_keys)

    async def active_in_all(self, set_keys: Sequence[str]) -> int:
        """Return the number of distinct ids in several sets of one tenant."""
        if not set_keys:
            return 0
        (count,) = await self._valkey.read([("EVAL", _COUNT_UNION, len(set_keys), *set_keys)])
        return int(count)

    async def members(self, set_keys: Sequence[str]) -> set[str]:
        """Return the distinct ids in several sets of one tenant."""
        if not set_keys:
            return set()
        (found,) = await self._valkey.read([("SUNION", *set_keys)])
        return {member.decode() for member in found}

    async def snapshot(self, period_key: str, breakdowns: Sequence[Breakdown]) -> Snapshot:
        """Return a period's figures, in all and by what is asked for, read in steps where it is large.

        Raises: ServiceError ``unavailable`` also where Valkey was restarted in between: ids may be missing.
        """
        names = [keys.breakdown_key(period_key, by) for by in breakdowns]
        figures = ("HMGET", period_key, *FIGURES)
        sizes = [("HLEN", name) for name in names]
        before, *known = await self._valkey.read_at_once([figures, *sizes])
        groups = {by: Groups() for by in breakdowns}
        if sum(known) <= AT_ONCE_IDS:
            whole = [("HGETALL", name) for name in names]
            before, *answers = await self._valkey.read_at_once([figures, *whole])
            for group, answer in zip(groups.values(), answers, strict=True):
                group.take(_by_id(answer))
            return Snapshot(_figures(before), groups, exact=True)
        for by, group in groups.items():
            async for chunk in self.chunks(period_key, by):
                group.take(chunk)
                await asyncio.sleep(0)
        after, *at_last = await self._valkey.read_at_once([figures, *sizes])
        lengths = [len(group) for group in groups.values()]
        if any(length < size for length, size in zip(lengths, known, strict=True)):
            raise unavailable(WHAT)
        return Snapshot(_figures(after), groups, exact=before == after and lengths == at_last)

    async def tenants_of(self, day: date) -> set[str]:
        """Return the tenants that have counters of a day."""
        found: set[str] = set()
        cursor = 0
        pattern = f"{keys.day_key('*', day)}*"
        while True:
            ((cursor, names),) = await self._valkey.read(
                [("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_KEYS)]
            )
            for name in names:
                if place := keys.place_of(name.decode()):
                    found.add(place.tenant_id)
            if int(cursor) == 0:
                return found

    async def expire_by(self, names: Iterable[str], moment: int) -> None:
        """Have keys gone by an epoch time at the latest."""
        await self._valkey.read([("EXPIREAT", name, moment, "LT") for name in names])

    async def messages_in_month(self, tenant_id: str, day: date) -> int:
        """Return the messages of the month in which a day lies."""
        (figures,) = await self.figures([keys.month_key(tenant_id, day)])
        return figures.messages


def too_many(by: Breakdown) -> ServiceError:
    """Return the refusal of an answer with too many agents or channels."""
    return invalid(
        f"too many {by}s for one answer: ask for pages with limit and next_token, for a shorter range, or "
        f"for a file at /usage/export?group_by={by}"
    )


def _figures(values: list[bytes | None]) -> Figures:
    return Figures(*(int(value or 0) for value in values))


def _by_id(answer: dict[bytes, bytes] | list[bytes]) -> dict[bytes, bytes]:
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
