"""Reads that may be a moment old: tenants, people, agents, channels, cached until somebody changes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from artcafe_common.clock import Clock
from artcafe_common.contracts.registry import Changed, Limits, Membership, Memberships
from artcafe_common.errors import not_found
from artcafe_registry.cache import Cache
from artcafe_registry.domain.records import Agent, Channel, Tenant
from artcafe_registry.store import Store
from artcafe_registry.store.members import PersonRows

TENANT_SECONDS = 5.0
PERSON_SECONDS = 5.0
# Presence is not announced as a change, so an agent's status is as old as this at most.
AGENT_SECONDS = 1.0
CHANNEL_SECONDS = 5.0
CAPACITY = 20_000


class Directory:
    """Cached reads; a source of memberships for `artcafe_common.tokens.Access`."""

    def __init__(self, store: Store, clock: Clock, usable: Callable[[], bool]) -> None:
        self._store = store
        self._tenants: Cache[str, Tenant] = Cache("tenant", TENANT_SECONDS, CAPACITY, clock, usable)
        self._people: Cache[str, PersonRows] = Cache("person", PERSON_SECONDS, CAPACITY, clock, usable)
        self._agents: Cache[tuple[str, str], Agent] = Cache("agent", AGENT_SECONDS, CAPACITY, clock, usable)
        self._channels: Cache[tuple[str, str], Channel] = Cache(
            "channel", CHANNEL_SECONDS, CAPACITY, clock, usable
        )

    async def tenant(self, tenant_id: str, *, fresh: bool = False) -> Tenant | None:
        """Return a tenant, or None; one that is being deleted is none. `fresh` reads the store."""
        tenant = await self._tenants.get(tenant_id, lambda: self._store.tenants.get(tenant_id), fresh=fresh)
        return None if tenant is None or tenant.status == "deleting" else tenant

    async def limits(self, tenant_id: str) -> Limits:
        """Return what a tenant may use. Raises: ServiceError ``not_found``."""
        tenant = await self.tenant(tenant_id)
        if tenant is None:
            raise not_found("tenant")
        return tenant.limits

    async def agent(self, tenant_id: str, agent_id: str, *, fresh: bool = False) -> Agent | None:
        """Return an agent, or None; `fresh` reads the store."""
        return await self._agents.get(
            (tenant_id, agent_id), lambda: self._store.agents.get(tenant_id, agent_id), fresh=fresh
        )

    async def channel(self, tenant_id: str, channel_id: str, *, fresh: bool = False) -> Channel | None:
        """Return a channel, or None; `fresh` reads the store."""
        return await self._channels.get(
            (tenant_id, channel_id), lambda: self._store.channels.get(tenant_id, channel_id), fresh=fresh
        )

    async def memberships(self, user_id: str, claimed_tenant_id: str | None) -> Memberships:
        """Return every tenant of a person, and whether the one their token claims exists."""
        rows = await self._person(user_id)
        found = await asyncio.gather(*(self.tenant(row.tenant_id) for row in rows.memberships))
        claimed = await self.tenant(claimed_tenant_id) if claimed_tenant_id else None
        return Memberships(
            user_id=user_id,
            memberships=[
                Membership(tenant_id=row.tenant_id, role=row.role, tenant_status=tenant.public_status)
                for row, tenant in zip(rows.memberships, found, strict=True)
                if tenant is not None
            ],
            platform_roles=rows.platform_roles,
            claimed_status=claimed.public_status if claimed else None,
        )

    async def reread_person(self, user_id: str) -> None:
        """Have a person's memberships be those of the store from now on."""
        await self._person(user_id, fresh=True)

    async def _person(self, user_id: str, *, fresh: bool = False) -> PersonRows:
        rows = await self._people.get(user_id, lambda: self._store.members.person(user_id), fresh=fresh)
        assert rows is not None
        return rows

    def forget(self, changed: Changed) -> None:
        """Forget what has changed."""
        match changed.kind:
            case "tenant":
                self._tenants.drop(changed.id)
                if changed.action == "deleted":
                    self._agents.clear()
                    self._channels.clear()
            case "member":
                self._people.drop(changed.id)
            case "agent":
                self._agents.drop((changed.tenant_id, changed.id))
            case "channel":
                self._channels.drop((changed.tenant_id, changed.id))
            case _:
                return

    def clear(self) -> None:
        """Forget everything."""
        for cache in (self._tenants, self._people, self._agents, self._channels):
            cache.clear()
