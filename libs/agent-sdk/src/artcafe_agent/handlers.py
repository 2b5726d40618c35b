"""Functions that handle messages, in the shapes people write them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from artcafe_agent.errors import ConfigurationError
from artcafe_agent.subscription import Message

HandlerFunction = Callable[..., Awaitable[Any] | Any]


class Handler:
    """A function with the channel or pattern it is for.

    It takes ``(subject, data)`` or one ``message``, and is plain or async.
    """

    def __init__(self, pattern: str, function: HandlerFunction) -> None:
        self.pattern = pattern
        self.function = function
        self._takes_message = _takes_message(function)

    async def __call__(self, message: Message) -> None:
        """Handle a message; whatever the function raises is raised."""
        if self._takes_message:
            result = self.function(message)
        else:
            result = self.function(message.subject, message.data)
        if inspect.isawaitable(result):
            await result


def _takes_message(function: HandlerFunction) -> bool:
    """Tell whether a function takes one argument; raise `ConfigurationError` if neither one nor two fit."""
    signature = inspect.signature(function)
    # Two are tried first: (subject, data) is what a function of *args expects.
    for arguments in (("subject", "data"), ("message",)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        # def handler(message, retries=3) takes two, but its second parameter is not data.
        required = [
            each
            for each in signature.parameters.values()
            if each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        ]
        return len(arguments) == 1 or len(required) == 1
    raise ConfigurationError(f"{function!r} must take (subject, data) or (message)")
