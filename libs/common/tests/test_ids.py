"""The grammar of ids, patterns, and new ids."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artcafe_common import ids
from artcafe_common.errors import ErrorCode, ServiceError

TOKENS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
CHANNELS = st.lists(st.sampled_from(["a", "b", "team", "t1", "T-1_"]), min_size=1, max_size=5).map(".".join)
PATTERNS = st.tuples(
    st.lists(st.sampled_from(["a", "b", "team", "t1", "*"]), min_size=1, max_size=5), st.booleans()
).map(lambda parts: ".".join([*parts[0], ">"] if parts[1] else parts[0]))

NO_TOKENS = [
    *("", "a.b", "a b", "a*", ">", "*", "a/b", "a:b", "ä", "a\n", "\na", "a\r\nPUB x", "a\x00", "a%2e"),
    *("..", ".", "x" * 65, "tenant id", "\u0661", "\uff41", "a\u200b", "$SYS", "'", '"', "{}"),
]


@pytest.mark.parametrize(
    "value", ["a", "A-b_9", "x" * 64, "-", "_", "0", "550e8400-e29b-41d4-a716-446655440000"]
)
def test_token_is_accepted(value: str) -> None:
    """Letters, digits, dash and underscore make a tenant id or an agent id."""
    assert ids.is_token(value)
    assert ids.check_tenant_id(value) == value
    assert ids.check_agent_id(value) == value


@pytest.mark.parametrize("value", NO_TOKENS)
def test_what_is_no_token_is_refused(value: str) -> None:
    """Nothing that could be a separator, a wildcard, a line end or another alphabet is a token."""
    assert not ids.is_token(value)
    for check, field in ((ids.check_tenant_id, "tenant_id"), (ids.check_agent_id, "agent_id")):
        with pytest.raises(ServiceError) as caught:
            check(value)
        # It names the field; what a client sent is not sent back, where it would be logged.
        assert (caught.value.code, caught.value.detail) == (
            ErrorCode.INVALID_ARGUMENT,
            f"{field} is not a valid id",
        )


@pytest.mark.parametrize("value", ["a", "team.updates", "a.b.c", "x" * 64 + "." + "y" * 63, "0.-._"])
def test_channel_id_is_accepted(value: str) -> None:
    """Tokens joined by dots, at most 128 characters, make a channel id."""
    assert ids.is_channel_id(value)
    assert ids.check_channel_id(value) == value


@pytest.mark.parametrize(
    "value",
    [
        *("", ".", "a.", ".a", "a..b", "a.*", "a.>", "*", ">", "a b", "a.b\n", "a/b", "ä.b"),
        *("x" * 65, "x" * 64 + "." + "y" * 64, "x" * 64 + "." + "y" * 65, ".".join("a" * 65)),
    ],
)
def test_what_is_no_channel_id_is_refused(value: str) -> None:
    """Empty tokens, wildcards and what is too long make no channel id."""
    assert not ids.is_channel_id(value)
    with pytest.raises(ServiceError) as caught:
        ids.check_channel_id(value)
    assert caught.value.code == ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize("value", ["a", "a.b", "*", ">", "a.*", "*.b", "a.*.c", "a.>", "*.>", "*.*.>"])
def test_pattern_is_accepted(value: str) -> None:
    """A star may stand for a token, and an arrow at the end for the rest."""
    assert ids.is_pattern(value)
    assert ids.check_pattern(value) == value
    assert ids.has_wildcard(value) == ("*" in value or ">" in value)


@pytest.mark.parametrize(
    "value",
    [
        *("", ".", "a.", ">.a", "a.>.b", "a>", "a*", "**", ">>", "a..>", "a b.*", "a.*\n", "a.a*"),
        ".".join("a" * 129),
    ],
)
def test_what_is_no_pattern_is_refused(value: str) -> None:
    """A wildcard stands for whole tokens only, and an arrow only at the end."""
    assert not ids.is_pattern(value)
    with pytest.raises(ServiceError):
        ids.check_pattern(value)


@given(st.text(max_size=80))
def test_grammar_is_that_of_its_regular_expression(value: str) -> None:
    """Whatever is accepted consists of the allowed characters alone."""
    if ids.is_token(value):
        assert re.fullmatch(r"[A-Za-z0-9_\-]{1,64}", value, re.ASCII)
    if ids.is_channel_id(value):
        assert all(ids.is_token(token) for token in value.split("."))
    if ids.is_pattern(value):
        assert set(value) <= set("*>.-_") | set(map(chr, range(128))) - set(" \t\r\n")


@pytest.mark.parametrize(
    ("pattern", "channel", "matches"),
    [
        ("a", "a", True),
        ("a", "ab", False),
        ("ab", "a", False),
        ("tenant.T1", "tenant.T10", False),
        ("tenant.T10", "tenant.T1", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("a.*", "a", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.*.c", "a.b.c", True),
        (">", "a", True),
        (">", "a.b.c", True),
        ("a.>", "a", False),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c", True),
        ("a.>", "ab.c", False),
        ("*.b.>", "a.b.c", True),
        ("*.b.>", "a.c.c", False),
    ],
)
def test_pattern_matches_whole_tokens(pattern: str, channel: str, matches: bool) -> None:
    """A pattern is compared token by token, never by prefix of characters."""
    assert ids.pattern_matches(pattern, channel) is matches


@given(PATTERNS, CHANNELS)
def test_pattern_matches_as_nats_does(pattern: str, channel: str) -> None:
    """The answer is that of a regular expression made from NATS's rules."""
    expression = re.escape(pattern).replace(r"\*", r"[^.]+").replace(">", r".+")
    assert ids.pattern_matches(pattern, channel) is (re.fullmatch(expression, channel) is not None)


@given(TOKENS)
def test_channel_matches_itself_only_as_a_whole(token: str) -> None:
    """An id is its own pattern and not that of a longer or shorter one."""
    assert ids.pattern_matches(token, token)
    assert not ids.pattern_matches(token, token + "x")
    assert not ids.pattern_matches(token, token + ".x")


def test_new_ids_are_unique_and_well_formed() -> None:
    """Ids made in a row differ, are tokens, and use the alphabet of ULIDs."""
    made = [ids.new_ulid() for _ in range(20_000)]
    assert len(set(made)) == len(made)
    assert all(re.fullmatch(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", value) for value in made)
    assert ids.is_token(made[0])


def test_ids_sort_by_time() -> None:
    """An id of a later millisecond sorts after one of an earlier."""
    times = [0.0, 0.001, 1.0, 1_700_000_000.0, 1_700_000_000.001, 4_000_000_000.0]
    made = [ids.new_ulid(moment) for moment in times]
    assert made == sorted(made)


def test_id_holds_its_time() -> None:
    """The first ten characters are the milliseconds, as the ULID specification has it."""
    assert ids.new_ulid(1_469_918_176.385)[:10] == "01ARYZ6S41"
    before = ids.new_ulid(time.time() - 0.002)
    assert before[:10] <= ids.new_ulid()[:10]


def test_random_part_is_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 80 bits behind the time are those of the system's generator, all of them."""
    monkeypatch.setattr("os.urandom", lambda count: b"\xff" * count)
    assert ids.new_ulid(0) == "0" * 10 + "Z" * 16


def test_message_ids_are_ulids_that_tell_their_process() -> None:
    """They sort by time, never repeat, and hold the tag of the process that made them."""
    one, two = ids.MessageIds("gateway-1-a"), ids.MessageIds("gateway-2-a")
    made = [one.new(now) for now in (1.0, 1.0, 1.001, 1_800_000_000.5)]
    assert made == sorted(made, key=lambda id: id[:10])
    assert len(set(made) | {one.new(5.0) for _ in range(10_000)}) == 10_004
    assert all(re.fullmatch("[0-9A-HJKMNP-TV-Z]{26}", id) for id in made)
    assert made[3][:10] == ids.new_ulid(1_800_000_000.5)[:10]
    assert {ids.tag_of(id) for id in made} == {ids.process_tag("gateway-1-a")}
    assert ids.tag_of(two.new(1.0)) == ids.process_tag("gateway-2-a") != ids.process_tag("gateway-1-a")
