"""Deletions, revocations and updates: begun in a transaction, finished whatever happens (`store.pending`).

Gateways keep what they know until they are told, so that telling of an update is work, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import datetime

from artcafe_common.clock import Clock, rfc3339
from artcafe_common.contracts.auth import Revoked
from artcafe_common.errors import ServiceError, not_found
from artcafe_registry import metrics
from artcafe_registry.changes import Changes
from artcafe_registry.store import Store
from artcafe_registry.store.access import settle
from artcafe_registry.store.pending import Work

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 10.0
# Younger work is most likely in the hands of the process that began it.
ABANDONED_SECONDS = 5.0


class Removal:
    """Carries out deletions and revocations, tells of updates, and finishes what others left behind."""

    def __init__(self, store: Store, changes: Changes, clock: Clock) -> None:
        self._store = store
        self._changes = changes
        self._clock = clock
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look for what was left at once: what stood in its way is there again."""
        self._woken.set()

    async def delete_agent(self, tenant_id: str, agent_id: str) -> None:
        """Delete an agent with its keys and member rows, and close its sessions. Raises: ServiceError."""
        work = await self._store.agents.mark_deleting(tenant_id, agent_id, self._now())
        if work is None:
            raise not_found("agent")
        await self.finish(work)

    async def delete_channel(self, tenant_id: str, channel_id: str) -> None:
        """Delete a channel with its member rows. Raises: ServiceError."""
        work = await self._store.channels.mark_deleting(tenant_id, channel_id, self._now())
        if work is None:
            raise not_found("channel")
        await self.finish(work)

    async def delete_tenant(self, tenant_id: str) -> None:
        """Delete a tenant and everything in it, and close its sessions. Raises: ServiceError."""
        work = await self._store.tenants.mark_deleting(tenant_id, self._now())
        if work is None:
            raise not_found("tenant")
        await self.finish(work)

    async def finish(self, work: Work) -> None:
        """Do all that a piece of work asks for; what was done before may be done again.

        Raises: ServiceError where it cannot be finished now; it is tried again later.
        """
        await settle(lambda: self._carry_out(work))

    async def sweep(self, abandoned_seconds: float = ABANDONED_SECONDS) -> None:
        """Finish what was left behind."""
        left = await self._store.pending.all()
        metrics.PENDING_WORK.set(len(left))
        for work in left:
            age = self._clock.now() - datetime.fromisoformat(work.started_at).timestamp()
            if age < abandoned_seconds:
                continue
            logger.info("pending_work_resumed", extra={"kind": work.kind, "tenant_id": work.tenant_id})
            try:
                await self.finish(work)
            except ServiceError as error:
                logger.warning("pending_work_failed", extra={"kind": work.kind, "code": error.code})

    async def run(self) -> None:
        """Sweep now and then until cancelled."""
        while True:
            # Whoever woke us knows that what stood in the way is gone: nothing is too young then.
            age = 0.0 if self._woken.is_set() else ABANDONED_SECONDS
            self._woken.clear()
            try:
                await self.sweep(age)
            except ServiceError as error:
                logger.warning("sweep_failed", extra={"code": error.code})
            except Exception:
                logger.exception("sweep_failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._woken.wait()

    async def _carry_out(self, work: Work) -> None:
        match work.kind:
            case "agent":
                await self._finish_agent(work)
            case "channel":
                await self._finish_channel(work)
            case "tenant":
                await self._finish_tenant(work)
            case "key":
                await self._finish_key(work)
            case "grants":
                await self._changes.tell(work.tenant_id, "grants", work.id, "updated")
            case "agent_update":
                await self._changes.tell(work.tenant_id, "agent", work.id, "updated")
            case "channel_update":
                await self._changes.tell(work.tenant_id, "channel", work.id, "updated")
            case "tenant_update" | "suspension":
                await self._finish_tenant_update(work)
        await self._store.pending.done(work)

    async def _finish_agent(self, work: Work) -> None:
        if not await self._store.agents.is_deleting(work.tenant_id, work.id):
            # Finished before; the id may be somebody else's by now.
            return
        # Told first: from the mark on nobody who asks finds the agent, so nothing new is let in.
        await self._changes.tell(work.tenant_id, "agent", work.id, "deleted")
        await self._revoke(work, "agent_deleted", agent_id=work.id)
        await self._store.grants.remove_agent(work.tenant_id, work.id)
        await self._store.agents.finish_delete(work.tenant_id, work.id)

    async def _finish_channel(self, work: Work) -> None:
        if not await self._store.channels.is_deleting(work.tenant_id, work.id):
            return
        await self._changes.tell(work.tenant_id, "channel", work.id, "deleted")
        agents = await self._store.grants.remove_channel(work.tenant_id, work.id)
        for agent_id in agents:
            await self._changes.tell(work.tenant_id, "grants", agent_id, "updated")
        await self._store.channels.finish_delete(work.tenant_id, work.id)

    async def _finish_key(self, work: Work) -> None:
        agent = await self._store.agents.get(work.tenant_id, work.id)
        if agent is None or any(key.fingerprint == work.fingerprint for key in agent.keys):
            # The agent's own deletion closes its sessions; and a key that was added again is good.
            return
        await self._changes.tell(work.tenant_id, "agent", work.id, "updated")
        await self._revoke(work, "key_revoked", agent_id=work.id, fingerprint=work.fingerprint)

    async def _finish_tenant_update(self, work: Work) -> None:
        tenant = await self._store.tenants.get(work.tenant_id)
        if tenant is None or tenant.status == "deleting":
            # Its deletion tells, and closes its sessions.
            return
        await self._changes.tell(work.tenant_id, "tenant", work.tenant_id, "updated")
        if tenant.status == "suspended":
            await self._revoke(work, "tenant_suspended")

    async def _finish_tenant(self, work: Work) -> None:
        tenant = await self._store.tenants.get(work.tenant_id)
        if tenant is None or tenant.status != "deleting":
            return
        await self._changes.tell(work.tenant_id, "tenant", work.tenant_id, "deleted")
        await self._revoke(work, "tenant_deleted")
        await self._store.clear_content(work.tenant_id)
        # People go last, so that an owner may ask again until it is done.
        for user_id in await self._store.members.remove_all(work.tenant_id):
            await self._changes.tell(work.tenant_id, "member", user_id, "deleted")
        await self._store.tenants.finish_delete(tenant)

    async def _revoke(
        self, work: Work, reason: str, agent_id: str | None = None, fingerprint: str | None = None
    ) -> None:
        await self._changes.revoke(
            Revoked(tenant_id=work.tenant_id, reason=reason, agent_id=agent_id, fingerprint=fingerprint)
        )

    def _now(self) -> str:
        return rfc3339(self._clock.now())
