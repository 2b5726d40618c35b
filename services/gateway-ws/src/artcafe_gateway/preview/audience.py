"""Who watches what of one tenant's traffic.

Dashboards that ask for the same channels are one `Selection`: it is found out once for all of them whether a
channel is theirs, and counted once how much of it passed by. Subjects that go to the same selections share a
`Route`. So what messages cost that nobody is shown does not grow with the dashboards.
"""

from __future__ import annotations

from artcafe_common.contracts.subjects import channel_of
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.ids import PRESENCE_CHANNELS
from artcafe_gateway.preview.selection import Selection, compared
from artcafe_gateway.preview.viewer import Viewer
from artcafe_gateway.preview.wanted import Selects, Wanted

ROUTES_MAX = 10_000
# With wildcards, of a tenant in one process, those of one selection counted once: each is compared with every
# new channel. A preview alone may have 201.
PATTERNS_MAX = 250

_STALE = -1


class Route:
    """Where messages of some subjects go."""

    __slots__ = ("audience", "by_message", "passed", "presence", "rests", "selections", "version", "viewers")

    def __init__(self, audience: Audience, selections: tuple[Selection, ...], presence: bool) -> None:
        self.audience = audience
        self.selections = selections
        # Whether the platform tells of presence there.
        self.presence = presence
        # Whether all viewers rest, and the messages that came since.
        self.rests = False
        self.passed = 0
        self.version = _STALE
        self.viewers: tuple[Viewer, ...] = ()
        self.by_message = False

    def renew(self) -> None:
        """Look up who belongs to the selections now."""
        self.version = self.audience.version
        self.viewers = tuple(viewer for selection in self.selections for viewer in selection.viewers)
        self.by_message = any(viewer.by_message for viewer in self.viewers)

    def forget(self) -> None:
        """Keep nobody who may have left; they are looked up with the next message."""
        self.version = _STALE
        self.viewers = ()


class Audience:
    """All viewers of one tenant in this process."""

    def __init__(self) -> None:
        self.viewers: dict[Viewer, Selection] = {}
        self.routes: dict[bytes, Route] = {}
        # Grows whenever somebody comes, leaves, or asks for something else.
        self.version = 0
        # Messages since the last tick.
        self.messages = 0
        self._selections: dict[Selects, Selection] = {}
        self._shared: dict[tuple[tuple[Selection, ...], bool], Route] = {}

    def check(self, viewer: Viewer, wanted: Wanted) -> None:
        """Refuse patterns that are too many, beside those of the others.

        Raises: ServiceError ``resource_exhausted``.
        """
        others = {
            s.selects for s in self._selections.values() if len(s.viewers) > 1 or viewer not in s.viewers
        }
        if sum(map(compared, others | {wanted.selects})) > PATTERNS_MAX:
            raise ServiceError(
                ErrorCode.RESOURCE_EXHAUSTED,
                f"your organisation's previews have more than {PATTERNS_MAX} patterns with wildcards here",
            )

    def join(self, viewer: Viewer) -> None:
        """Let a viewer see what it wants now."""
        self.part(viewer)
        selects = viewer.wanted.selects
        selection = self._selections.get(selects)
        if selection is None:
            selection = self._selections[selects] = Selection(selects)
            self._forget_routes()
        selection.viewers[viewer] = None
        self.viewers[viewer] = selection
        self.version += 1

    def part(self, viewer: Viewer) -> None:
        """Let a viewer see nothing more."""
        selection = self.viewers.pop(viewer, None)
        if selection is None:
            return
        del selection.viewers[viewer]
        self.version += 1
        if selection.viewers:
            for route in self._shared.values():
                route.forget()
        else:
            del self._selections[selection.selects]
            self._forget_routes()

    def route(self, subject: bytes) -> Route:
        """Return where messages of a subject go."""
        route = self.routes.get(subject)
        if route is None:
            route = self._new_route(subject)
        if route.version != self.version:
            route.renew()
        return route

    def _new_route(self, subject: bytes) -> Route:
        if len(self.routes) >= ROUTES_MAX:
            self._forget_routes()
        _, channel_id = channel_of(subject.decode())
        tokens = channel_id.split(".")
        selections = tuple([s for s in self._selections.values() if s.takes(channel_id, tokens)])
        key = (selections, channel_id.startswith(PRESENCE_CHANNELS))
        shared = self._shared.get(key)
        if shared is None:
            shared = self._shared[key] = Route(self, *key)
        self.routes[subject] = shared
        return shared

    def _forget_routes(self) -> None:
        self.routes.clear()
        self._shared.clear()
