"""Agents over REST."""

from __future__ import annotations

from artcafe_common.errors import ErrorCode, not_found
from artcafe_common.http import Call, Operation
from artcafe_common.ids import check_agent_id, new_ulid
from artcafe_common.roles import Permission
from artcafe_registry.domain.bounds import check_metadata
from artcafe_registry.domain.people import person_name
from artcafe_registry.domain.records import Agent
from artcafe_registry.handlers.given import given_fields
from artcafe_registry.handlers.keys import key_view, new_key
from artcafe_registry.services import Services
from artcafe_registry.wire import AgentList, AgentsQuery, AgentView, CreateAgent, CreatedAgent, UpdateAgent

LIST_ROUTE = "agents"


class AgentHandlers:
    """Handlers of `/agents`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """Return the operations."""
        tags = ("agents",)
        return [
            Operation(
                "GET",
                "/agents",
                self.list_agents,
                "List agents",
                Permission.AGENTS_READ,
                query=AgentsQuery,
                reply=AgentList,
                tags=tags,
            ),
            Operation(
                "POST",
                "/agents",
                self.create_agent,
                "Create an agent",
                Permission.AGENTS_WRITE,
                body=CreateAgent,
                reply=CreatedAgent,
                status=201,
                errors=(ErrorCode.ALREADY_EXISTS, ErrorCode.RESOURCE_EXHAUSTED, ErrorCode.NOT_FOUND),
                tags=tags,
            ),
            Operation(
                "GET",
                "/agents/{agent_id}",
                self.get_agent,
                "Read an agent",
                Permission.AGENTS_READ,
                reply=AgentView,
                description="At most one second old; with `Cache-Control: no-cache` what is stored now.",
                errors=(ErrorCode.NOT_FOUND,),
                tags=tags,
            ),
            Operation(
                "PUT",
                "/agents/{agent_id}",
                self.update_agent,
                "Replace fields of an agent",
                Permission.AGENTS_WRITE,
                body=UpdateAgent,
                reply=AgentView,
                errors=(ErrorCode.NOT_FOUND,),
                tags=tags,
            ),
            Operation(
                "DELETE",
                "/agents/{agent_id}",
                self.delete_agent,
                "Delete an agent with its keys, member rows and sessions",
                Permission.AGENTS_WRITE,
                errors=(ErrorCode.NOT_FOUND,),
                tags=tags,
            ),
        ]

    async def list_agents(self, call: Call) -> AgentList:
        """Return one page of the tenant's agents."""
        services, query = self._services, call.query
        agents, more = await services.store.agents.list_page(
            call.tenant_id,
            query.limit,
            services.position(query.next_token, call.tenant_id, LIST_ROUTE),
            status=query.status,
            capability=query.capability,
        )
        last = agents[-1].agent_id if agents else ""
        return AgentList(
            agents=[agent_view(agent) for agent in agents],
            next_token=services.next_token(last, more, call.tenant_id, LIST_ROUTE),
        )

    async def create_agent(self, call: Call) -> CreatedAgent:
        """Make an agent, and its first key where none is given."""
        services, body = self._services, call.body
        now = services.now()
        key, private_key = new_key(body.public_key, "", now)
        agent = Agent(
            tenant_id=call.tenant_id,
            agent_id=check_agent_id(body.agent_id) if body.agent_id else new_ulid(services.clock.now()),
            name=body.name,
            type=body.type,
            description=body.description,
            capabilities=body.capabilities,
            metadata=check_metadata(body.metadata),
            keys=[key],
            created_at=now,
            updated_at=now,
            created_by=person_name(call.person),
        )
        await services.store.agents.create(agent)
        await services.changes.tell(agent.tenant_id, "agent", agent.agent_id, "created")
        return CreatedAgent(agent=agent_view(agent), private_key=private_key)

    async def get_agent(self, call: Call) -> AgentView:
        """Return an agent."""
        agent_id = check_agent_id(call.path["agent_id"])
        agent = await self._services.directory.agent(call.tenant_id, agent_id, fresh=call.wants_fresh)
        if agent is None:
            raise not_found("agent")
        return agent_view(agent)

    async def update_agent(self, call: Call) -> AgentView:
        """Replace the given fields."""
        services = self._services
        agent_id = check_agent_id(call.path["agent_id"])
        changes = given_fields(call.body)
        agent, work = await services.store.agents.update(call.tenant_id, agent_id, changes, services.now())
        await services.removal.finish(work)
        return agent_view(agent)

    async def delete_agent(self, call: Call) -> None:
        """Delete an agent."""
        await self._services.removal.delete_agent(call.tenant_id, check_agent_id(call.path["agent_id"]))


def agent_view(agent: Agent) -> AgentView:
    """Return an agent as REST shows it."""
    return AgentView(
        id=agent.agent_id,
        agent_id=agent.agent_id,
        tenant_id=agent.tenant_id,
        name=agent.name,
        type=agent.type,
        description=agent.description,
        capabilities=agent.capabilities,
        metadata=agent.metadata,
        status=agent.status,
        last_seen=agent.last_seen,
        connected_at=agent.connected_at,
        reason=agent.reason,
        keys=[key_view(key) for key in agent.keys],
        created_at=agent.created_at,
        updated_at=agent.updated_at,
        created_by=agent.created_by,
    )
