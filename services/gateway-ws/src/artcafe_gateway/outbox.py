"""What waits for one socket while its transport is full: bounded, in order, and the droppable first to go."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from artcafe_gateway.connection import Connection

Policy = Literal["disconnect", "drop_newest", "drop_oldest"]


class Source(Protocol):
    """What a held message came from: it is told when the socket has taken the message after all."""

    channel_id: str

    def delivered(self, connection: Connection, size: int) -> None:
        """Count a copy with `size` bytes of data."""
        ...


class Held(NamedTuple):
    """A message with `size` bytes of data that waits for its socket."""

    source: Source
    policy: Policy
    frame: bytes
    size: int


class Outbox:
    """Frames in the order they came; `size` is the bytes of all."""

    __slots__ = ("_firm", "_loose", "_number", "size")

    def __init__(self) -> None:
        self.size = 0
        self._number = 0
        # Those that may be dropped for newer ones wait apart, each with its number in the common order: so
        # the oldest of them is found at once.
        self._firm: deque[tuple[int, Held | bytes]] = deque()
        self._loose: deque[tuple[int, Held]] = deque()

    def __len__(self) -> int:
        return len(self._firm) + len(self._loose)

    def push(self, item: Held | bytes) -> None:
        """Put something at the end: a message, or the frame of an answer."""
        self._number += 1
        if isinstance(item, bytes):
            self.size += len(item)
            self._firm.append((self._number, item))
        elif item.policy == "drop_oldest":
            self.size += len(item.frame)
            self._loose.append((self._number, item))
        else:
            self.size += len(item.frame)
            self._firm.append((self._number, item))

    def pop(self) -> Held | bytes:
        """Take what came first."""
        item: Held | bytes
        if not self._firm or (self._loose and self._loose[0][0] < self._firm[0][0]):
            _, item = self._loose.popleft()
        else:
            _, item = self._firm.popleft()
        self.size -= len(item if isinstance(item, bytes) else item.frame)
        return item

    def drop_oldest(self) -> Held | None:
        """Take out the oldest message that may be dropped for a newer one, None where there is none."""
        if not self._loose:
            return None
        _, held = self._loose.popleft()
        self.size -= len(held.frame)
        return held
