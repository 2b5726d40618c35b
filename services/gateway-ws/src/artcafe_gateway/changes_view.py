"""What of an organisation has changed, told to its dashboards so that their lists stay true without asking.

Registry's announcements, for those whose role may read what changed. Changes that come together are told
together, one of each thing; where they are too many, or some were missed, that is told instead: the dashboard
reads its lists anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from artcafe_common.contracts.registry import Changed
from artcafe_common.errors import invalid, permission_denied
from artcafe_common.roles import Permission
from artcafe_gateway.connection import Connection
from artcafe_gateway.frames import event

PAUSE_SECONDS = 0.1
PENDING_MAX = 500

# What changes -> who may hear of it.
KINDS: Mapping[str, Permission] = {
    "agent": Permission.AGENTS_READ,
    "channel": Permission.CHANNELS_READ,
    "grants": Permission.AGENTS_READ,
    "member": Permission.MEMBERS_READ,
    "tenant": Permission.TENANT_READ,
}


class _Watcher:
    def __init__(self, kinds: frozenset[str]) -> None:
        self.kinds = kinds
        # (kind, id) -> what was done with it last.
        self.pending: dict[tuple[str, str], str] = {}
        self.missed = False

    def note(self, changed: Changed) -> None:
        key = (changed.kind, changed.id)
        # What nobody was told of yet is still new.
        if not (self.pending.get(key) == "created" and changed.action == "updated"):
            self.pending[key] = changed.action
        if len(self.pending) > PENDING_MAX:
            self.miss()

    def miss(self) -> None:
        self.pending.clear()
        self.missed = True


class ChangesView:
    """All dashboards of this process that watch for changes, by tenant."""

    def __init__(self) -> None:
        self._watchers: dict[str, dict[Connection, _Watcher]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, tenant_id: str, connection: Connection, kinds: frozenset[str]) -> None:
        """Tell a dashboard of changes of some kinds from now on."""
        self._watchers.setdefault(tenant_id, {})[connection] = _Watcher(kinds)

    def leave(self, tenant_id: str, connection: Connection) -> None:
        """Tell a dashboard of nothing more."""
        watchers = self._watchers.get(tenant_id, {})
        if watchers.pop(connection, None) is not None and not watchers:
            del self._watchers[tenant_id]

    def changed(self, changed: Changed) -> None:
        """Note what registry has announced."""
        for watcher in self._watchers.get(changed.tenant_id, {}).values():
            if changed.kind in watcher.kinds:
                watcher.note(changed)
                self._tell_soon()

    def missed(self) -> None:
        """Note that announcements may have been missed."""
        for watchers in self._watchers.values():
            for watcher in watchers.values():
                watcher.miss()
                self._tell_soon()

    def _tell_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._tell)

    def _tell(self) -> None:
        self._timer = None
        for watchers in self._watchers.values():
            for connection, watcher in watchers.items():
                if not (watcher.pending or watcher.missed):
                    continue
                if connection.blocked:
                    # It is told once it reads; until then changes of one thing are one.
                    if not connection.closing:
                        self._tell_soon()
                    continue
                if watcher.missed:
                    connection.send(event("changes_missed"))
                pending, watcher.pending, watcher.missed = watcher.pending, {}, False
                for (kind, id), action in pending.items():
                    connection.send(event("changed", kind=kind, object_id=id, action=action))


def kinds_for(asked: Iterable[str] | None, permissions: frozenset[Permission]) -> frozenset[str]:
    """Return the kinds of changes that somebody is told of: those asked for, or all that they may know.

    Raises: ServiceError ``invalid_argument``, ``permission_denied``.
    """
    allowed = frozenset(kind for kind, permission in KINDS.items() if permission in permissions)
    if asked is None:
        kinds = allowed
    else:
        kinds = frozenset(asked)
        if unknown := kinds - KINDS.keys():
            raise invalid(f"unknown kind {min(unknown)[:64]!r}: one of {', '.join(KINDS)}")
    if not kinds or not kinds <= allowed:
        raise permission_denied("your role may not know of these changes")
    return kinds
