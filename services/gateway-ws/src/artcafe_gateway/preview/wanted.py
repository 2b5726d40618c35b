"""What a dashboard asks of its preview, checked, and which messages that means."""

from __future__ import annotations

from dataclasses import dataclass

from artcafe_common.contracts.subjects import tenant_tap
from artcafe_common.envelope import data_size, sender_field, sender_of
from artcafe_common.errors import invalid
from artcafe_gateway.frames import SizeRange, SubscribeTopicPreview, Where
from artcafe_gateway.names import pattern_named

EVERYTHING = ">"

# What dashboards have in common that see the same channels: patterns, and those of a condition on channels.
Selects = tuple[tuple[str, ...], tuple[str, ...] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Patterns over channels of which one must match, conditions that must all hold, and how it is shown.

    `senders` as they stand in frames. `sample` is n in "every n-th message", beginning with the first.
    `max_bytes` is how much is shown of a message's data. With `counts_only` nothing is shown of any message.
    """

    patterns: tuple[str, ...] = (EVERYTHING,)
    channels: tuple[str, ...] | None = None
    senders: frozenset[bytes] | None = None
    size_min: int = 0
    size_max: int | None = None
    max_rate: float | None = None
    sample: int = 1
    batch: bool = False
    max_bytes: int | None = None
    counts_only: bool = False

    @property
    def by_message(self) -> bool:
        """Whether a message's channel does not say yet if it is wanted."""
        return self.senders is not None or self.size_min > 0 or self.size_max is not None

    @property
    def selects(self) -> Selects:
        """By what a message's channel says whether it may be wanted."""
        return self.patterns, self.channels

    def takes(self, frame: bytes) -> bool:
        """Tell whether a message is wanted whose channel is; nothing is decoded for it."""
        if self.senders is not None and sender_of(frame) not in self.senders:
            return False
        if self.size_min == 0 and self.size_max is None:
            return True
        size = data_size(frame)
        return size >= self.size_min and (self.size_max is None or size <= self.size_max)


def wanted(command: SubscribeTopicPreview, tenant_id: str) -> Wanted:
    """Return what a command asks for.

    Raises: ServiceError ``invalid_argument``, ``permission_denied``.
    """
    where = command.where or Where()
    channels = senders = None
    if where.channel is not None:
        channels = _patterns(_listed(where.channel), tenant_id)
    if where.sender is not None:
        senders = frozenset(sender_field(sender) for sender in _listed(where.sender))
    size = where.size or SizeRange()
    if size.max is not None and size.max < size.min:
        raise invalid("where.size: max is less than min")
    return Wanted(
        patterns=_patterns(_asked(command), tenant_id),
        channels=channels,
        senders=senders,
        size_min=size.min,
        size_max=size.max,
        max_rate=command.max_rate,
        sample=command.sample,
        batch=command.batch,
        max_bytes=command.max_bytes,
        counts_only=command.counts_only,
    )


def _asked(command: SubscribeTopicPreview) -> list[str]:
    patterns = list(command.patterns or [])
    if command.pattern is not None:
        patterns.append(command.pattern)
    if not patterns and command.patterns is not None:
        # Whoever has just taken the last one away does not mean everything.
        raise invalid("patterns: an empty list")
    return patterns or [EVERYTHING]


def _patterns(names: list[str], tenant_id: str) -> tuple[str, ...]:
    return tuple(_pattern(name, tenant_id) for name in names)


def _pattern(name: str, tenant_id: str) -> str:
    if name == tenant_tap(tenant_id):
        # All that is tapped, as it is called at NATS.
        return EVERYTHING
    # A pattern over subjects (``channel.team.*``) is taken for one over channel ids.
    return pattern_named(name.removeprefix("channel."), tenant_id)


def _listed(value: str | list[str]) -> list[str]:
    if not value:
        # Nothing would ever match: most likely not what was meant.
        raise invalid("where: an empty sender or channel")
    return [value] if isinstance(value, str) else value
