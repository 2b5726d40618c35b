"""Which channels some dashboards watch: patterns made ready to be compared with many channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

from artcafe_common.ids import has_wildcard
from artcafe_gateway.preview.viewer import Viewer
from artcafe_gateway.preview.wanted import EVERYTHING, Selects


class Selection:
    """Dashboards that ask for the same channels."""

    def __init__(self, selects: Selects) -> None:
        patterns, channels = selects
        self.selects = selects
        self.viewers: dict[Viewer, None] = {}
        self._patterns = AnyOf(patterns)
        self._channels = AnyOf((EVERYTHING,) if channels is None else channels)

    def takes(self, channel_id: str, tokens: Sequence[str]) -> bool:
        """Tell whether messages of a channel may be wanted; `tokens` are those of its id."""
        return self._patterns.matches(channel_id, tokens) and self._channels.matches(channel_id, tokens)


class AnyOf:
    """Patterns of which one must match. Those that are just a channel are looked up, the others compared."""

    __slots__ = ("_everything", "_exact", "_wild")

    def __init__(self, patterns: Iterable[str]) -> None:
        patterns = list(patterns)
        self._everything = EVERYTHING in patterns
        self._exact = frozenset(pattern for pattern in patterns if not has_wildcard(pattern))
        self._wild = [Pattern(pattern) for pattern in patterns if is_compared(pattern)]

    def matches(self, channel_id: str, tokens: Sequence[str]) -> bool:
        """Tell whether a channel lies under one of the patterns."""
        return (
            self._everything
            or channel_id in self._exact
            or any(pattern.matches(tokens) for pattern in self._wild)
        )


class Pattern:
    """A valid pattern over channel ids, as `artcafe_common.ids.pattern_matches` reads it.

    Its words are taken out of a channel and compared all at once: a pattern of many tokens costs little more
    than one of few.
    """

    __slots__ = ("_least", "_most", "_take", "_words")

    def __init__(self, pattern: str) -> None:
        tokens = pattern.split(".")
        self._least = len(tokens)
        self._most = None if tokens[-1] == ">" else len(tokens)
        places = [place for place, token in enumerate(tokens) if token not in ("*", ">")]
        self._take: Callable[[Sequence[str]], Any] | None = itemgetter(*places) if places else None
        # As `itemgetter` returns them: one alone, or a tuple.
        self._words: Any = self._take(tokens) if self._take is not None else None

    def matches(self, tokens: Sequence[str]) -> bool:
        """Tell whether a channel lies under the pattern, given by the tokens of its id."""
        count = len(tokens)
        if count < self._least or (self._most is not None and count > self._most):
            return False
        return self._take is None or bool(self._take(tokens) == self._words)


def compared(selects: Selects) -> int:
    """Return how many patterns are compared with each channel, at most."""
    patterns, channels = selects
    return sum(map(is_compared, patterns)) + sum(map(is_compared, channels or ()))


def is_compared(pattern: str) -> bool:
    """Tell whether a pattern must be compared with channels one by one."""
    return has_wildcard(pattern) and pattern != EVERYTHING
