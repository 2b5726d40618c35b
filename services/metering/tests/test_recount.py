"""What a recount keeps of a day."""

from __future__ import annotations

from artcafe_metering.figures import Figures
from artcafe_metering.recount import Numbers, Sums


def test_sums_add_up_by_id() -> None:
    """Each id has its own figures; one that was never added to has none, and no place."""
    sums = Sums()
    for name, messages in (("a", 1), ("b", 2), ("a", 4)):
        sums.add(name, (messages, 0, 10 * messages, 0, 0, 7))
    assert (list(sums), len(sums)) == (["a", "b"], 2)
    assert sums.of("a") == Figures(5, bytes_in=50, connection_ms=14)
    assert sums.of("b") == Figures(2, bytes_in=20, connection_ms=7)
    assert sums.of("c") == Figures()
    assert [sums.place(name) for name in "abc"] == [0, 1, None]


def test_a_number_is_new_once() -> None:
    """Numbers are told apart in any order, however far from each other."""
    numbers = Numbers()
    some = [1, 2, 3, 4095, 4096, 8, 0, 2**53 - 1, 5_000_000, 4094]
    assert all(numbers.add(number) for number in some)
    assert not any(numbers.add(number) for number in some)
    assert numbers.add(7)
