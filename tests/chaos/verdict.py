"""Whether usage is what publishers saw accepted: the rule, and the proof for one tenant.

A publish ends in one of three ways for whoever made it. It was **accepted**: it must be counted. It was
**refused**, or not sent: it must not be counted. Or its answer was **lost** with the connection: then it may
have been accepted in the moment before its gateway was killed, or not, and nobody but the gateway ever knew.
Both are right, but it must be one of them: counted once, in every figure, or in none; and counted if anybody
received it, since a message that has been delivered was accepted.

Figures are sums, so whether a lost one was counted must be read out of them. Messages differ in size; each
publisher has one under way at a time, so that few answers are lost; and those that were counted must explain
messages *and* bytes of every publisher *and* of every channel. A message that is counted twice or not at all,
or that is put down to somebody else, leaves figures that no choice explains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

Outcome = Literal["accepted", "refused", "lost"]
# Messages and bytes.
Figures = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Message:
    """One publish; `size` is that of its data in bytes."""

    tag: str
    publisher: str
    channel: str
    size: int


@dataclass(slots=True)
class Seen:
    """What publishers of a tenant saw since the last verdict, and which tags anybody ever received."""

    accepted: list[Message] = field(default_factory=list)
    refused: list[Message] = field(default_factory=list)
    lost: list[Message] = field(default_factory=list)
    heard: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Usage:
    """Figures of one tenant by publisher and by channel; without an entry they are 0."""

    publishers: Mapping[str, Figures]
    channels: Mapping[str, Figures]


class WrongUsage(AssertionError):
    """Usage is not what publishers saw; `final` where it cannot become so any more, since it only grows."""

    def __init__(self, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


def counted_of_lost(before: list[Message], seen: Seen, usage: Usage) -> list[Message]:
    """Return those of the lost messages that were counted.

    `before` is what earlier verdicts found counted. Raises: WrongUsage.
    """
    for message in seen.refused:
        if message.tag in seen.heard:
            raise WrongUsage(f"{message.tag} was refused and delivered", final=True)
    sure = [*before, *seen.accepted, *(message for message in seen.lost if message.tag in seen.heard)]
    unsure = [message for message in seen.lost if message.tag not in seen.heard]
    over_publishers = _over(usage.publishers, sure, "publisher", unsure)
    over_channels = _over(usage.channels, sure, "channel", unsure)
    choices = [
        list(_choices([m for m in unsure if m.publisher == publisher], over))
        for publisher, over in sorted(over_publishers.items())
    ]
    for (publisher, over), found in zip(sorted(over_publishers.items()), choices, strict=True):
        if not found:
            lost = [m.size for m in unsure if m.publisher == publisher]
            raise WrongUsage(f"{publisher}: {over} is counted that only {lost} could explain")
    for chosen in _together(choices, over_channels):
        return [message for message in seen.lost if message.tag in seen.heard or message in chosen]
    raise WrongUsage(f"by channel {over_channels} is counted that nothing explains: {choices}")


def figures(messages: Iterable[Message]) -> Figures:
    """Return how many messages there are, and their bytes."""
    sizes = [message.size for message in messages]
    return len(sizes), sum(sizes)


def _over(
    counted: Mapping[str, Figures],
    sure: list[Message],
    kind: Literal["publisher", "channel"],
    unsure: list[Message],
) -> dict[str, Figures]:
    """Return by how much each publisher's or channel's figures are more than what is sure."""
    over: dict[str, Figures] = {}
    for name in {*counted, *(getattr(m, kind) for m in [*sure, *unsure])}:
        messages, size = counted.get(name, (0, 0))
        least = figures(m for m in sure if getattr(m, kind) == name)
        most = figures(m for m in [*sure, *unsure] if getattr(m, kind) == name)
        if messages < least[0] or size < least[1]:
            raise WrongUsage(f"{kind} {name}: {(messages, size)} is counted, {least} was accepted")
        if messages > most[0] or size > most[1]:
            raise WrongUsage(
                f"{kind} {name}: {(messages, size)} is counted, at most {most} was sent", final=True
            )
        over[name] = (messages - least[0], size - least[1])
    return over


def _choices(unsure: list[Message], over: Figures) -> Iterator[tuple[Message, ...]]:
    """Yield each choice of messages that comes to some figures."""
    for chosen in combinations(unsure, over[0]):
        if figures(chosen) == over:
            yield chosen


def _together(
    choices: list[list[tuple[Message, ...]]], over_channels: Mapping[str, Figures]
) -> Iterator[tuple[Message, ...]]:
    """Yield what comes to the channels' figures, too, with one choice of each publisher."""

    def left_after(left: dict[str, Figures], chosen: Iterable[Message]) -> dict[str, Figures] | None:
        left = dict(left)
        for message in chosen:
            count, size = left[message.channel]
            left[message.channel] = (count - 1, size - message.size)
            if count < 1 or size < message.size:
                return None
        return left

    def search(place: int, left: dict[str, Figures]) -> Iterator[tuple[Message, ...]]:
        if place == len(choices):
            if all(rest == (0, 0) for rest in left.values()):
                yield ()
            return
        for chosen in choices[place]:
            if (rest := left_after(left, chosen)) is not None:
                for others in search(place + 1, rest):
                    yield chosen + others

    yield from search(0, dict(over_channels))
