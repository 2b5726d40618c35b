"""The dashboards that are open in this process, and how many of them one person and one tenant may have.

Those do not count as connections of a plan, which are its agents. Without a bound one person could take every
place of a gateway that all tenants share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TypeVar

from artcafe_common.clock import Clock
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.quota import Buckets
from artcafe_gateway.dashboard_session import DashboardSession

KeyT = TypeVar("KeyT")

# How quickly one person may open them: a token is checked for each, and a record written and removed. All
# that a person may have can come back at once.
OPENED_PER_SECOND = 2.0
OPENED_BURST_MIN = 20


class OpenDashboards:
    """The sessions of people, counted."""

    def __init__(self, per_person: int, per_tenant: int, clock: Clock) -> None:
        burst = max(per_person, OPENED_BURST_MIN)
        self._openings: Buckets[tuple[str, str]] = Buckets(OPENED_PER_SECOND, burst, clock)
        self._per_person = per_person
        self._per_tenant = per_tenant
        self._sessions: set[DashboardSession] = set()
        self._of_person: Counter[tuple[str, str]] = Counter()
        self._of_tenant: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[DashboardSession]:
        return iter(self._sessions)

    def check(self, tenant_id: str, user_id: str) -> None:
        """Refuse one more. Raises: ServiceError ``resource_exhausted``."""
        if self._of_person[tenant_id, user_id] >= self._per_person:
            raise _too_many(f"you have {self._per_person} dashboards open here, close some of them")
        if self._of_tenant[tenant_id] >= self._per_tenant:
            raise _too_many(
                f"your organisation has {self._per_tenant} dashboards open here, close some of them"
            )
        if self._openings.take((tenant_id, user_id)):
            raise _too_many("you open dashboards faster than they can be opened, wait a moment")

    def add(self, session: DashboardSession) -> None:
        """Note a session that has opened."""
        self._sessions.add(session)
        self._of_person[_person(session)] += 1
        self._of_tenant[session.tenant_id] += 1

    def discard(self, session: DashboardSession) -> None:
        """Note that a session has ended."""
        if session not in self._sessions:
            return
        self._sessions.remove(session)
        _less(self._of_person, _person(session))
        _less(self._of_tenant, session.tenant_id)


def _person(session: DashboardSession) -> tuple[str, str]:
    # A session's person never changes; a token of another is refused.
    return session.tenant_id, session.scope.person.user_id


def _too_many(detail: str) -> ServiceError:
    return ServiceError(ErrorCode.RESOURCE_EXHAUSTED, detail)


def _less(counts: Counter[KeyT], key: KeyT) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
