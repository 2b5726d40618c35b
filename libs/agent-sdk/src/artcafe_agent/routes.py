"""Which subscription gets which message. No I/O."""

from __future__ import annotations

from artcafe_agent.subscription import Subscription

LARGEST_CACHE = 10_000  # channels


def matches(pattern: str, channel: str) -> bool:
    """Tell whether a channel lies under a pattern: ``*`` is one token, a last ``>`` one or more."""
    wanted = pattern.split(".")
    given = channel.split(".")
    for position, token in enumerate(wanted):
        if token == ">":
            return len(given) > position
        if position >= len(given) or (token != "*" and token != given[position]):
            return False
    return len(wanted) == len(given)


class Routes:
    """The channels this client wants, under the names it asked for and those the server confirmed."""

    def __init__(self) -> None:
        self._wanted: dict[str, list[Subscription]] = {}
        self._aliases: dict[str, tuple[str, ...]] = {}
        self._found: dict[str, tuple[Subscription, ...]] = {}

    @property
    def names(self) -> frozenset[str]:
        """Every name that somebody wants."""
        return frozenset(self._wanted)

    @property
    def subscriptions(self) -> list[Subscription]:
        """Every subscription, once."""
        return list({id(each): each for holders in self._wanted.values() for each in holders}.values())

    def add(self, name: str, subscription: Subscription) -> None:
        """Note that a subscription wants a channel or pattern."""
        holders = self._wanted.setdefault(name, [])
        if subscription not in holders:
            holders.append(subscription)
        self._found.clear()

    def remove(self, subscription: Subscription) -> list[str]:
        """Forget a subscription; return the names that nobody wants any more."""
        orphans = []
        for name, holders in list(self._wanted.items()):
            if subscription in holders:
                holders.remove(subscription)
                if not holders:
                    orphans.append(name)
                    del self._wanted[name]
                    self._aliases.pop(name, None)
        self._found.clear()
        return orphans

    def confirm(self, name: str, *aliases: str) -> None:
        """Note under which other names the server may speak of what was asked for as ``name``."""
        if name in self._wanted:
            self._aliases[name] = tuple({alias for alias in aliases if alias and alias != name})
            self._found.clear()

    def known_as(self, *aliases: str) -> list[str]:
        """Return the wanted names that the server calls by one of these."""
        return [name for name in self._wanted if not {name, *self._aliases.get(name, ())}.isdisjoint(aliases)]

    def holders(self, name: str) -> list[Subscription]:
        """Return who wants a name."""
        return list(self._wanted.get(name, ()))

    def find(self, channel: str) -> tuple[Subscription, ...]:
        """Return the subscriptions that a message of this channel goes to, each once."""
        found = self._found.get(channel)
        if found is None:
            if len(self._found) >= LARGEST_CACHE:
                self._found.clear()
            found = self._found[channel] = self._search(channel)
        return found

    def _search(self, channel: str) -> tuple[Subscription, ...]:
        hits: dict[int, Subscription] = {}
        for name, holders in self._wanted.items():
            if any(matches(pattern, channel) for pattern in (name, *self._aliases.get(name, ()))):
                hits.update((id(each), each) for each in holders)
        return tuple(hits.values())
