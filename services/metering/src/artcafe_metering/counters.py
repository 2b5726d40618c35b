"""Read the counters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Protocol

from artcafe_common.errors import invalid
from artcafe_metering import keys
from artcafe_metering.figures import Figures
from artcafe_metering.keys import BREAKDOWNS, FIGURES, PACKED, Breakdown
from artcafe_metering.valkey import Valkey

# More than this in one answer is no answer but an export.
BROKEN_DOWN_MAX = 50_000

# Counts in the server: the members themselves would be megabytes.
_COUNT_UNION = "return #redis.call('SUNION', unpack(KEYS))"


class Counters(Protocol):
    """The reading side of the counters; periods without usage read as zeros."""

    async def figures(self, period_keys: Sequence[str]) -> list[Figures]:
        """Return the figures of each period."""
        ...

    async def broken_down(self, period_keys: Sequence[str], by: Breakdown) -> list[dict[str, Figures]]:
        """Return the figures of each period per agent or channel."""
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
        return [Figures(*(int(value or 0) for value in values)) for values in answers]

    async def broken_down(self, period_keys: Sequence[str], by: Breakdown) -> list[dict[str, Figures]]:
        """Return the figures of each period per agent or channel.

        Raises: ServiceError ``invalid_argument`` where that is too much for one answer.
        """
        names = [keys.breakdown_key(key, by) for key in period_keys]
        if sum(await self._valkey.read(("HLEN", name) for name in names)) > BROKEN_DOWN_MAX:
            raise invalid(f"too many {by}s for one answer: choose a shorter range or a larger granularity")
        answers = await self._valkey.read(("HGETALL", name) for name in names)
        return [_grouped(answer) for answer in answers]

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

    async def snapshot(self, period_key: str) -> tuple[Figures, dict[Breakdown, dict[str, Figures]]]:
        """Return a period's figures, in all and per agent and channel, as they were at one moment."""
        names = [keys.breakdown_key(period_key, by) for by in BREAKDOWNS]
        values, *groups = await self._valkey.read_at_once(
            [("HMGET", period_key, *FIGURES), *(("HGETALL", name) for name in names)]
        )
        figures = Figures(*(int(value or 0) for value in values))
        return figures, dict(zip(BREAKDOWNS, map(_grouped, groups), strict=True))

    async def messages_in_month(self, tenant_id: str, day: date) -> int:
        """Return the messages of the month in which a day lies."""
        (figures,) = await self.figures([keys.month_key(tenant_id, day)])
        return figures.messages


def _grouped(answer: dict[bytes, bytes] | list[bytes]) -> dict[str, Figures]:
    pairs = answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=True)
    # A newer version may have put further figures behind ours.
    return {name.decode(): Figures(*map(int, PACKED.unpack_from(value))) for name, value in pairs}
