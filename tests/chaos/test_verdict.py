"""The rule of the proof: what it takes for right, and that no loss and no double count passes."""

from __future__ import annotations

import random

import pytest

from .verdict import Figures, Message, Seen, Usage, WrongUsage, counted_of_lost, figures


def usage_of(messages: list[Message]) -> Usage:
    """Return the usage if exactly these were counted."""

    def by(kind: str) -> dict[str, Figures]:
        names = {getattr(message, kind) for message in messages}
        return {name: figures(m for m in messages if getattr(m, kind) == name) for name in names}

    return Usage(by("publisher"), by("channel"))


def some(chance: random.Random, count: int, what: str) -> list[Message]:
    """Make messages of a few publishers in a few channels."""
    return [
        Message(
            f"{what}{n}", f"p{chance.randrange(4)}", f"c{chance.randrange(3)}", chance.randrange(20, 4000)
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_lost_answers_may_be_counted_or_not(seed: int) -> None:
    """Whichever of the lost ones were counted is right, and is told apart; what was received must be."""
    chance = random.Random(seed)
    before, accepted, lost = some(chance, 20, "b"), some(chance, 100, "a"), some(chance, 12, "l")
    counted = [message for message in lost if chance.random() < 0.5]
    heard = {message.tag for message in counted[:3]}
    seen = Seen(accepted, some(chance, 5, "r"), lost, heard)
    assert counted_of_lost(before, seen, usage_of(before + accepted + counted)) == counted


@pytest.mark.parametrize("seed", range(20))
def test_nothing_else_passes(seed: int) -> None:
    """A message that is missing, counted twice, or put down to somebody else is found."""
    chance = random.Random(seed)
    accepted, refused, lost = some(chance, 100, "a"), some(chance, 5, "r"), some(chance, 12, "l")
    right = accepted + lost[:6]
    seen = Seen(accepted, refused, lost, {lost[0].tag})
    one = chance.choice(accepted)
    moved = Message(one.tag, "p9", one.channel, one.size)
    elsewhere = Message(one.tag, one.publisher, "c9", one.size)
    rest = [message for message in right if message is not one]
    wrong = {
        "an accepted one is missing": rest,
        "an accepted one is counted twice": [*right, one],
        "a lost one is counted twice": [*right, lost[1]],
        "a refused one is counted": [*right, refused[0]],
        "a received one is missing": [message for message in right if message is not lost[0]],
        "another publisher has it": [*rest, moved],
        "another channel has it": [*rest, elsewhere],
    }
    for why, messages in wrong.items():
        with pytest.raises(WrongUsage):
            pytest.fail(f"{why}: {counted_of_lost([], seen, usage_of(messages))}")


def test_a_refused_message_that_arrives_is_wrong() -> None:
    """What was refused must reach nobody."""
    refused = Message("r", "p", "c", 10)
    with pytest.raises(WrongUsage, match="refused and delivered"):
        counted_of_lost([], Seen(refused=[refused], heard={"r"}), usage_of([]))
