"""Figures by id: packed, in the order of ids, and in parts."""

from __future__ import annotations

import random

from artcafe_metering.figures import Figures, counts
from artcafe_metering.groups import PART_IDS, FirstIds, Groups
from artcafe_metering.keys import PACKED


def packed(**figures: int) -> dict[bytes, bytes]:
    """Return messages by id as Valkey has them."""
    return {name.encode(): PACKED.pack(*counts(Figures(number))) for name, number in figures.items()}


def whole(groups: Groups) -> dict[str, int]:
    """Return the messages of all parts."""
    return {name: figures.messages for part in groups.parts() for name, figures in part.items()}


def test_groups_come_in_the_order_of_ids_in_parts_of_some() -> None:
    """However they were taken, and however often: each id once, with what was said of it last."""
    numbers = list(range(30_000))
    random.Random(5).shuffle(numbers)
    groups = Groups()
    for first in range(0, len(numbers), 700):
        groups.take(packed(**{f"a{n:05d}": n for n in numbers[first : first + 700]}))
    groups.take(packed(a00003=7))
    assert (len(groups), groups.active) == (30_000, 30_000)
    parts = list(groups.parts())
    assert {len(part) for part in parts} == {PART_IDS}
    assert [name for part in parts for name in part] == [f"a{n:05d}" for n in range(30_000)]
    assert parts[0]["a00003"] == Figures(7)
    assert parts[0]["a00004"] == Figures(4)


def test_what_is_taken_away_is_gone_where_nothing_is_left() -> None:
    """In any number of steps; an id of which more is taken than there is remains with what is missing."""
    groups = Groups()
    groups.take(packed(a=5, b=5, c=5) | {b"user:x": PACKED.pack(1, 0, 0, 0, 0, 0)})
    assert groups.active == 3
    groups.subtract({"a": Figures(5), "b": Figures(2), "user:x": Figures(1), "d": Figures(4)})
    assert whole(groups) == {"b": 3, "c": 5, "d": -4}
    assert (len(groups), groups.active) == (3, 3)
    groups.subtract({"a": Figures(1), "b": Figures(3), "d": Figures()})
    groups.take(packed(d=2))
    assert whole(groups) == {"a": -1, "c": 5, "d": 2}


def test_first_ids_are_those_behind_one() -> None:
    """Offered in any order and more than once, the same are found as by sorting all of them."""
    ids = [f"agent-{n}" for n in range(5_000)]
    wanted = sorted(ids)
    random.Random(3).shuffle(ids)
    for after, place in (
        (None, 0),
        (wanted[41], 42),
        ("agent-1a", wanted.index("agent-2")),
        (wanted[-3], -2),
    ):
        first = FirstIds(after, 100)
        for begin in range(0, len(ids), 300):
            first.offer(ids[begin : begin + 300])
            first.offer(ids[:50])
        assert first.ids() == wanted[place:][:100]
    assert FirstIds("a", 3).ids() == []
