"""Work by key of which only the newest state counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable

from artcafe_gateway.background import Background


class Latest:
    """One piece of work at a time for each key; asked for while it runs, it runs once more."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._wanted: dict[Hashable, bool] = {}

    def run(self, key: Hashable, work: Callable[[], Awaitable[object]]) -> None:
        """Do some work in the background, after what was begun for the same key."""
        running = key in self._wanted
        self._wanted[key] = True
        if not running:
            self._background.spawn(self._run(key, work))

    async def _run(self, key: Hashable, work: Callable[[], Awaitable[object]]) -> None:
        try:
            while self._wanted[key]:
                self._wanted[key] = False
                await work()
        finally:
            del self._wanted[key]
