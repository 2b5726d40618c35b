"""Add a day up from the batches in the stream.

This shares nothing with counting but the reading of a batch: no windows, no scripts, one batch after the
other, each once by its source and number.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from artcafe_common.streams import USAGE
from artcafe_metering import periods
from artcafe_metering.batches import Batch, Counts, PoisonError, read_batch
from artcafe_metering.figures import Figures
from artcafe_metering.keys import BREAKDOWNS, FIGURES, Breakdown

FETCH_BATCHES = 500
FETCH_SECONDS = 10.0
# So many batches are added up before others have their turn.
AT_ONCE = 16
_PAGE_NUMBERS = 4096
_WIDTH = len(FIGURES)


class Sums:
    """Figures by id, side by side in an array: a day may have hundreds of thousands of ids."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._figures = array("q")

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def add(self, name: str, counts: Counts) -> None:
        """Add to an id."""
        place = self._places.setdefault(name, len(self._places))
        if place * _WIDTH == len(self._figures):
            self._figures.extend(counts)
            return
        for index, count in enumerate(counts, place * _WIDTH):
            self._figures[index] += count

    def place(self, name: str) -> int | None:
        """Return the number of an id among the others, from 0; None where it has nothing."""
        return self._places.get(name)

    def of(self, name: str) -> Figures:
        """Return the figures of an id."""
        place = self._places.get(name)
        if place is None:
            return Figures()
        return Figures(*self._figures[place * _WIDTH : (place + 1) * _WIDTH])


class Numbers:
    """A set of whole numbers that mostly follow each other, as bits."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def add(self, number: int) -> bool:
        """Add a number and tell whether it was not there."""
        page_number, bit = divmod(number, _PAGE_NUMBERS)
        page = self._pages.get(page_number)
        if page is None:
            page = self._pages[page_number] = bytearray(_PAGE_NUMBERS // 8)
        mask = 1 << bit % 8
        if page[bit // 8] & mask:
            return False
        page[bit // 8] |= mask
        return True


@dataclass(slots=True)
class TenantSums:
    """What a tenant's batches come to."""

    totals: Counts = (0,) * _WIDTH
    groups: dict[Breakdown, Sums] = field(default_factory=lambda: {by: Sums() for by in BREAKDOWNS})


class Recount:
    """A day, recounted as far as the stream was read."""

    def __init__(self, jetstream: JetStreamContext, day: date) -> None:
        self.batches = 0
        self.tenants: dict[str, TenantSums] = {}
        self._jetstream = jetstream
        self._day = day
        self._seen: defaultdict[str, Numbers] = defaultdict(Numbers)
        self._read_to = 0

    async def read_on(self) -> int:
        """Add up what the stream has and was not read; return the place of the last batch that was.

        Raises: nats.errors.Error, TimeoutError.
        """
        subscription = await self._jetstream.pull_subscribe(
            "usage.v1.batch.*", stream=USAGE.name, config=self._consumer()
        )
        try:
            left = (await subscription.consumer_info()).num_pending or 0
            while left > 0:
                messages = await subscription.fetch(min(left, FETCH_BATCHES), timeout=FETCH_SECONDS)
                left -= len(messages)
                for number, message in enumerate(messages):
                    self._take(message)
                    if number % AT_ONCE == 0:
                        await asyncio.sleep(0)
        finally:
            await subscription.unsubscribe()
        return self._read_to

    def _consumer(self) -> ConsumerConfig:
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, inactive_threshold=60.0, mem_storage=True)
        if self._read_to:
            return config.evolve(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._read_to + 1
            )
        # No batch is stored before its time, but clocks differ.
        start = periods.midnight(self._day) - timedelta(hours=1)
        return config.evolve(deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=start)

    def _take(self, message: Msg) -> None:
        self._read_to = message.metadata.sequence.stream
        oldest = periods.midnight(self._day).timestamp() - 1
        stored = message.metadata.timestamp.timestamp()
        try:
            batch = read_batch(message.subject, message.data, oldest, stored)
        except PoisonError:
            return
        # Rows that came back by themselves are in their batch, where they are read by now.
        if batch.was_aside or batch.hour.date() != self._day:
            return
        if self._seen[batch.source].add(batch.seq):
            self._add(batch)

    def _add(self, batch: Batch) -> None:
        self.batches += 1
        for tenant_id, additions in batch.tenants.items():
            sums = self.tenants.get(tenant_id)
            if sums is None:
                sums = self.tenants[tenant_id] = TenantSums()
            sums.totals = tuple(map(sum, zip(sums.totals, additions.totals, strict=True)))
            for by in BREAKDOWNS:
                parts = additions.agents if by == "agent" else additions.channels
                group = sums.groups[by]
                for name, counts in parts.items():
                    group.add(name, counts)
