"""What was counted in a span of time, cut into batches that always come out the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from artcafe_common.contracts.metering import UsageBatch, UsageRow

# However long their ids are, so many rows stay below the limit of NATS.
ROWS_PER_BATCH = 1_500


@dataclass(slots=True)
class Span:
    """Rows of one hour, from `start` to `end` (epoch seconds), as batches `first_seq` and following.

    `slots` are the places in the counter file that hold the rows. Those that have none come last, in batches
    of their own: so whoever finds the file makes the same batches of what is in it.
    """

    source: str
    first_seq: int
    start: float
    end: float
    chunks: list[list[UsageRow]]
    slots: list[int] = field(default_factory=list)
    acknowledged: int = 0

    @property
    def next_seq(self) -> int:
        """The number after the last batch."""
        return self.first_seq + len(self.chunks)

    @property
    def waiting(self) -> int:
        """How many batches were not acknowledged yet."""
        return len(self.chunks) - self.acknowledged

    @property
    def rows(self) -> list[UsageRow]:
        """All rows."""
        return [row for chunk in self.chunks for row in chunk]

    @property
    def messages(self) -> int:
        """How many messages were counted."""
        return sum(row.messages for row in self.rows)

    def batches(self) -> Iterator[UsageBatch]:
        """Yield the batches that were not acknowledged yet."""
        for position in range(self.acknowledged, len(self.chunks)):
            yield UsageBatch(
                source=self.source,
                seq=self.first_seq + position,
                start=self.start,
                end=self.end,
                rows=self.chunks[position],
            )


def cut(rows: list[UsageRow]) -> list[list[UsageRow]]:
    """Cut rows into those of one batch each."""
    return [rows[first : first + ROWS_PER_BATCH] for first in range(0, len(rows), ROWS_PER_BATCH)]
