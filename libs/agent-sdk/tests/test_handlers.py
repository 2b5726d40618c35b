"""The shapes of handlers."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from artcafe_agent import ConfigurationError, Message
from artcafe_agent.handlers import Handler, HandlerFunction

MESSAGE = Message("c", "s", {"n": 1}, "a", "m", "t")
calls: list[tuple[Any, ...]] = []


def one(message: Any) -> None:
    """Take the message."""
    calls.append((message,))


def one_and_option(message: Any, retries: int = 3) -> None:
    """Take the message, and something that is not data."""
    calls.append((message,))


def two(subject: Any, data: Any) -> None:
    """Take both."""
    calls.append((subject, data))


def two_and_option(subject: Any, data: Any, retries: int = 3) -> None:
    """Take both, and an option."""
    calls.append((subject, data))


def many(*everything: Any) -> None:
    """Take all there is."""
    calls.append(everything)


async def later(subject: Any, data: Any) -> None:
    """Take both, some time."""
    calls.append((subject, data))


class Methods:
    """A class whose methods handle."""

    def one(self, message: Any) -> None:
        """Take the message."""
        calls.append((message,))

    def __call__(self, subject: Any, data: Any) -> None:
        """Take both."""
        calls.append((subject, data))


BOTH = ("s", {"n": 1})
WHOLE = (MESSAGE,)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (one, WHOLE),
        (one_and_option, WHOLE),
        (two, BOTH),
        (two_and_option, BOTH),
        (many, BOTH),
        (later, BOTH),
        (Methods().one, WHOLE),
        (Methods(), BOTH),
        (functools.partial(two_and_option, retries=1), BOTH),
        (lambda message: one(message), WHOLE),
    ],
)
async def test_arguments_follow_the_signature(function: HandlerFunction, expected: tuple[Any, ...]) -> None:
    """Two where two fit, else one."""
    calls.clear()
    await Handler("c", function)(MESSAGE)
    assert calls == [expected]


@pytest.mark.parametrize("function", [lambda: None, lambda a, b, c: None])
def test_other_signatures_are_refused(function: HandlerFunction) -> None:
    """When the handler is registered, not when the first message comes."""
    with pytest.raises(ConfigurationError):
        Handler("c", function)
