"""What the registry answers over NATS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from artcafe_common.bus import Bus
from artcafe_common.contracts.platform import GetHealth, Health, health_endpoint
from artcafe_common.contracts.registry import (
    CHANGED,
    GET_AGENT,
    GET_GRANTS,
    GET_MEMBERSHIPS,
    GET_TENANT,
    LIST_AGENT_STATUS,
    RESOLVE_CHANNEL,
    AgentInfo,
    AgentKey,
    AgentStatus,
    AgentStatusPage,
    Changed,
    ChannelInfo,
    GetAgent,
    GetGrants,
    GetMemberships,
    GetTenant,
    Grant,
    Grants,
    ListAgentStatus,
    Memberships,
    ResolveChannel,
    TenantInfo,
)
from artcafe_common.errors import ErrorCode, ServiceError, not_found, unavailable
from artcafe_common.health import Readiness
from artcafe_common.ids import check_agent_id, check_channel_id, check_not_presence, check_tenant_id
from artcafe_common.rpc import listen, serve
from artcafe_registry.domain.records import Agent, Channel, Tenant
from artcafe_registry.services import Services

QUEUE = "registry"
STATUS_PAGE = 100
# Less than a message on the bus may have (`max_payload`): agents may state much of themselves.
STATUS_PAGE_BYTES = 1_000_000
STATUS_ROUTE = "agent-status"


class Endpoints:
    """Handlers of the registry's endpoints."""

    def __init__(self, services: Services, readiness: Readiness) -> None:
        self._services = services
        self._readiness = readiness

    @asynccontextmanager
    async def serve(self, bus: Bus) -> AsyncIterator[None]:
        """Answer all endpoints, and hear of other replicas' changes, while the context is open."""
        async with AsyncExitStack() as stack:
            # Changes first: what is answered from a cache must have been told of them.
            await stack.enter_async_context(listen(bus, CHANGED, self._changed))
            for context in (
                serve(bus, GET_TENANT, self.get_tenant, queue=QUEUE),
                serve(bus, GET_AGENT, self.get_agent, queue=QUEUE),
                serve(bus, GET_GRANTS, self.get_grants, queue=QUEUE),
                serve(bus, RESOLVE_CHANNEL, self.resolve_channel, queue=QUEUE),
                serve(bus, GET_MEMBERSHIPS, self.get_memberships, queue=QUEUE),
                serve(bus, LIST_AGENT_STATUS, self.list_agent_status, queue=QUEUE),
                serve(bus, health_endpoint("registry"), self.get_health, queue=QUEUE),
            ):
                await stack.enter_async_context(context)
            yield

    async def get_tenant(self, request: GetTenant) -> TenantInfo:
        """Return a tenant."""
        tenant = await self._tenant(check_tenant_id(request.tenant_id))
        return TenantInfo(
            tenant_id=tenant.tenant_id,
            name=tenant.name,
            status=tenant.public_status,
            plan=tenant.plan,
            limits=tenant.limits,
            auto_create_channels=tenant.auto_create_channels,
        )

    async def get_agent(self, request: GetAgent) -> AgentInfo:
        """Return an agent with its keys."""
        tenant = await self._tenant(check_tenant_id(request.tenant_id))
        agent = await self._services.directory.agent(tenant.tenant_id, check_agent_id(request.agent_id))
        if agent is None:
            raise not_found("agent")
        return AgentInfo(
            tenant_id=agent.tenant_id,
            agent_id=agent.agent_id,
            name=agent.name,
            tenant_status=tenant.public_status,
            keys=[AgentKey(fingerprint=key.fingerprint, public_key=key.public_key) for key in agent.keys],
        )

    async def get_grants(self, request: GetGrants) -> Grants:
        """Return every member row of an agent."""
        rows = await self._services.store.grants.of_agent(
            check_tenant_id(request.tenant_id), check_agent_id(request.agent_id)
        )
        return Grants(
            [
                Grant(channel_id=row.channel_id, role=row.role, auto_subscribe=row.auto_subscribe)
                for row in rows
            ]
        )

    async def resolve_channel(self, request: ResolveChannel) -> ChannelInfo:
        """Return a channel, made where that is asked for and allowed."""
        tenant_id = check_tenant_id(request.tenant_id)
        channel_id = check_channel_id(request.channel_id)
        channel = await self._services.directory.channel(tenant_id, channel_id)
        if channel is None and request.create_for is not None:
            channel = await self._make(tenant_id, channel_id, check_agent_id(request.create_for))
        if channel is None:
            raise not_found("channel")
        return ChannelInfo(
            channel_id=channel.channel_id,
            name=channel.name,
            access=channel.access,
            delivery=channel.delivery,
        )

    async def get_memberships(self, request: GetMemberships) -> Memberships:
        """Return every tenant of a person."""
        claimed = request.claimed_tenant_id
        if claimed is not None:
            check_tenant_id(claimed)
        return await self._services.directory.memberships(request.user_id, claimed)

    async def list_agent_status(self, request: ListAgentStatus) -> AgentStatusPage:
        """Return one page of a tenant's agents with their presence."""
        services = self._services
        tenant_id = check_tenant_id(request.tenant_id)
        agents, more = await services.store.agents.list_page(
            tenant_id, STATUS_PAGE, services.position(request.next_token, tenant_id, STATUS_ROUTE)
        )
        statuses = [_status(agent) for agent in agents]
        page = statuses[: _fitting(statuses)]
        last = page[-1].agent_id if page else ""
        return AgentStatusPage(
            agents=page,
            next_token=services.next_token(last, more or len(page) < len(statuses), tenant_id, STATUS_ROUTE),
        )

    async def get_health(self, _: GetHealth) -> Health:
        """Return this replica's report."""
        return await self._readiness.report()

    async def _changed(self, changed: Changed) -> None:
        self._services.directory.forget(changed)

    async def _tenant(self, tenant_id: str) -> Tenant:
        tenant = await self._services.directory.tenant(tenant_id)
        if tenant is None:
            raise not_found("tenant")
        return tenant

    async def _make(self, tenant_id: str, channel_id: str, agent_id: str) -> Channel | None:
        services = self._services
        if not (await self._tenant(tenant_id)).auto_create_channels:
            return None
        now = services.now()
        channel = Channel(
            tenant_id=tenant_id,
            channel_id=check_not_presence(channel_id),
            name=channel_id,
            created_at=now,
            updated_at=now,
            created_by=agent_id,
        )
        try:
            await services.store.channels.create(channel)
        except ServiceError as error:
            if error.code != ErrorCode.ALREADY_EXISTS:
                raise
            # Somebody else was a moment faster: theirs is the channel.
            found = await services.store.channels.get(tenant_id, channel_id)
            if found is None:
                raise unavailable("the channel") from None
            return found
        await services.changes.tell(tenant_id, "channel", channel_id, "created")
        return channel


def _status(agent: Agent) -> AgentStatus:
    return AgentStatus(
        agent_id=agent.agent_id,
        name=agent.name,
        status=agent.status,
        last_seen=agent.last_seen,
        connected_at=agent.connected_at,
        reason=agent.reason,
        capabilities=agent.capabilities,
        metadata=agent.metadata,
    )


def _fitting(statuses: list[AgentStatus]) -> int:
    """Return how many of them fit into one page, at least one."""
    size = 0
    for number, status in enumerate(statuses):
        size += len(msgspec.json.encode(status))
        if number and size > STATUS_PAGE_BYTES:
            return number
    return len(statuses)
