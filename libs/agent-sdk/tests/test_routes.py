"""Patterns, and which subscription gets which message."""

from __future__ import annotations

import pytest

from artcafe_agent.routes import Routes, matches
from artcafe_agent.subscription import Subscription


async def nothing(_: Subscription) -> None:
    """Stand for a client that is told that a subscription closes."""


def subscribed(routes: Routes, *names: str) -> Subscription:
    """Add a subscription."""
    added = Subscription(names, nothing)
    for name in names:
        routes.add(name, added)
    return added


@pytest.mark.parametrize(
    ("pattern", "channel", "expected"),
    [
        ("a", "a", True),
        ("a", "ab", False),
        ("a", "a.b", False),
        ("a.b", "a", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.*.c", "a.b.c", True),
        (">", "a", True),
        (">", "a.b.c", True),
        ("a.>", "a", False),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c", True),
        ("a.>", "ab.c", False),
        ("*.>", "a", False),
        ("*.>", "a.b", True),
    ],
)
def test_patterns_compare_whole_tokens(pattern: str, channel: str, expected: bool) -> None:
    """As NATS does: * is one token, > is one or more at the end."""
    assert matches(pattern, channel) is expected


async def test_each_subscription_is_found_once() -> None:
    """However many of its patterns match."""
    routes = Routes()
    both = subscribed(routes, "a.b", "a.*", ">")
    one = subscribed(routes, "a.b")
    subscribed(routes, "x")
    assert set(routes.find("a.b")) == {both, one}
    assert len(routes.find("a.b")) == 2
    assert routes.find("a.c") == (both,)


async def test_what_is_found_follows_changes() -> None:
    """The cache of look-ups forgets with every change."""
    routes = Routes()
    assert routes.find("a") == ()
    first = subscribed(routes, "a")
    assert routes.find("a") == (first,)
    second = subscribed(routes, "*")
    assert set(routes.find("a")) == {first, second}
    assert routes.remove(first) == ["a"]
    assert routes.find("a") == (second,)


async def test_names_are_orphaned_with_their_last_holder() -> None:
    """Only then is the server told."""
    routes = Routes()
    first = subscribed(routes, "a", "b")
    second = subscribed(routes, "b", "c")
    assert routes.remove(first) == ["a"]
    assert routes.names == {"b", "c"}
    assert sorted(routes.remove(second)) == ["b", "c"]
    assert routes.remove(second) == []


async def test_other_names_of_the_server_are_understood() -> None:
    """A name that the server resolved is found under what it was resolved to, and forgotten with it."""
    routes = Routes()
    named = subscribed(routes, "Team Updates")
    assert routes.find("team-updates") == ()
    routes.confirm("Team Updates", "Team Updates", "team-updates")
    assert routes.find("team-updates") == (named,)
    assert routes.known_as("team-updates") == ["Team Updates"]
    assert routes.known_as("Team Updates") == ["Team Updates"]
    assert routes.known_as("other") == []
    routes.remove(named)
    routes.confirm("Team Updates", "team-updates")
    assert routes.find("team-updates") == ()


async def test_cache_is_bounded() -> None:
    """A pattern over endlessly many channels does not grow the memory."""
    routes = Routes()
    every = subscribed(routes, ">")
    for number in range(25_000):
        assert routes.find(f"c{number}") == (every,)
    assert len(routes._found) <= 10_000
