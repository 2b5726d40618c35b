"""Which channels some dashboards watch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artcafe_common.ids import is_pattern, pattern_matches
from artcafe_gateway.preview.selection import AnyOf, Pattern, Selection

TOKENS = st.sampled_from(["a", "b", "c1"])
CHANNELS = st.lists(TOKENS, min_size=1, max_size=5)
PATTERNS = st.lists(TOKENS | st.just("*"), max_size=5).flatmap(
    lambda tokens: st.sampled_from([tokens, [*tokens, ">"]])
)


@given(PATTERNS.filter(bool), CHANNELS)
def test_a_pattern_is_read_as_everywhere_else(pattern: list[str], channel: list[str]) -> None:
    """What it matches is what subscriptions of agents match."""
    text = ".".join(pattern)
    assert is_pattern(text)
    assert Pattern(text).matches(channel) is pattern_matches(text, ".".join(channel))


@given(st.lists(PATTERNS.filter(bool), max_size=3), CHANNELS)
def test_one_of_several_is_enough(patterns: list[list[str]], channel: list[str]) -> None:
    """Those that are looked up as those that are compared."""
    texts, channel_id = [".".join(pattern) for pattern in patterns], ".".join(channel)
    expected = any(pattern_matches(text, channel_id) for text in texts)
    assert AnyOf(texts).matches(channel_id, channel) is expected


@pytest.mark.parametrize(
    ("patterns", "channels", "taken"),
    [
        ((">",), None, {"team.a", "team.b", "other"}),
        (("team.*", "x"), None, {"team.a", "team.b"}),
        (("team.*", "other"), ("other", "*.a"), {"team.a", "other"}),
        ((">",), (), set()),
    ],
)
def test_patterns_and_conditions_must_both_match(
    patterns: tuple[str, ...], channels: tuple[str, ...] | None, taken: set[str]
) -> None:
    """One of the patterns, and where there are any one of the channels."""
    selection = Selection((patterns, channels))
    assert {name for name in ("team.a", "team.b", "other") if selection.takes(name, name.split("."))} == taken
