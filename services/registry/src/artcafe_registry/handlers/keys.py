"""Agents' public keys over REST: adding, listing, taking away."""

from __future__ import annotations

from artcafe_common.errors import ErrorCode, ServiceError, not_found
from artcafe_common.http import Call, Operation
from artcafe_common.ids import check_agent_id
from artcafe_common.roles import Permission
from artcafe_registry.domain.records import Agent, PublicKey
from artcafe_registry.domain.ssh_keys import check_not_last, check_room, new_key_pair, parse_public_key
from artcafe_registry.services import Services
from artcafe_registry.store.access import settle
from artcafe_registry.store.pending import Work
from artcafe_registry.wire import AddedKey, AddKey, KeyList, KeyQuery, KeyView


class KeyHandlers:
    """Handlers of `/agents/{agent_id}/keys`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """Return the operations."""
        tags = ("keys",)
        return [
            Operation(
                "GET",
                "/agents/{agent_id}/keys",
                self.list_keys,
                "List an agent's public keys",
                Permission.AGENTS_READ,
                reply=KeyList,
                errors=(ErrorCode.NOT_FOUND,),
                tags=tags,
            ),
            Operation(
                "POST",
                "/agents/{agent_id}/keys",
                self.add_key,
                "Add a public key, or have a pair made",
                Permission.AGENTS_WRITE,
                body=AddKey,
                reply=AddedKey,
                status=201,
                errors=(ErrorCode.NOT_FOUND, ErrorCode.ALREADY_EXISTS, ErrorCode.FAILED_PRECONDITION),
                tags=tags,
            ),
            Operation(
                "DELETE",
                "/agents/{agent_id}/keys",
                self.remove_key,
                "Take a public key away and close its sessions",
                Permission.AGENTS_WRITE,
                query=KeyQuery,
                errors=(ErrorCode.NOT_FOUND, ErrorCode.FAILED_PRECONDITION),
                tags=tags,
            ),
            Operation(
                "DELETE",
                "/agents/{agent_id}/keys/{fingerprint:path}",
                self.remove_key_by_path,
                "Take a public key away and close its sessions",
                Permission.AGENTS_WRITE,
                errors=(ErrorCode.NOT_FOUND, ErrorCode.FAILED_PRECONDITION),
                tags=tags,
            ),
        ]

    async def list_keys(self, call: Call) -> KeyList:
        """Return the agent's keys."""
        agent = await self._agent(call.tenant_id, check_agent_id(call.path["agent_id"]))
        return KeyList(keys=[key_view(key) for key in agent.keys])

    async def add_key(self, call: Call) -> AddedKey:
        """Add a key to an agent."""
        services = self._services
        agent_id = check_agent_id(call.path["agent_id"])
        key, private_key = new_key(call.body.public_key, call.body.name, services.now())

        async def attempt() -> None:
            agent = await self._agent(call.tenant_id, agent_id)
            if any(known.fingerprint == key.fingerprint for known in agent.keys):
                raise ServiceError(ErrorCode.ALREADY_EXISTS, "the agent has this key already")
            check_room(len(agent.keys))
            await services.store.agents.set_keys(agent, [*agent.keys, key], services.now())

        await settle(attempt)
        await services.changes.tell(call.tenant_id, "agent", agent_id, "updated")
        return AddedKey(key=key_view(key), private_key=private_key)

    async def remove_key(self, call: Call) -> None:
        """Take away the key of the query's fingerprint."""
        # A plus sign that was not percent-encoded reads as a space, which no fingerprint has.
        await self._remove(call, call.query.fingerprint.replace(" ", "+"))

    async def remove_key_by_path(self, call: Call) -> None:
        """Take away the key of the path's fingerprint."""
        await self._remove(call, call.path["fingerprint"])

    async def _remove(self, call: Call, fingerprint: str) -> None:
        services = self._services
        agent_id = check_agent_id(call.path["agent_id"])
        now = services.now()

        async def attempt() -> None:
            agent = await self._agent(call.tenant_id, agent_id)
            left = [key for key in agent.keys if key.fingerprint != fingerprint]
            if len(left) == len(agent.keys):
                raise not_found("key")
            check_not_last(len(agent.keys))
            await services.store.agents.set_keys(agent, left, now, revoked=fingerprint)

        await settle(attempt)
        await services.removal.finish(
            Work(kind="key", tenant_id=call.tenant_id, id=agent_id, fingerprint=fingerprint, started_at=now)
        )

    async def _agent(self, tenant_id: str, agent_id: str) -> Agent:
        agent = await self._services.store.agents.get(tenant_id, agent_id)
        if agent is None:
            raise not_found("agent")
        return agent


def new_key(line: str | None, name: str, now: str) -> tuple[PublicKey, str | None]:
    """Return the key of an OpenSSH line, or a new one with its private key. Raises: ServiceError."""
    if line is None:
        parsed, private_key = new_key_pair()
    else:
        parsed, private_key = parse_public_key(line), None
    key = PublicKey(
        fingerprint=parsed.fingerprint, type=parsed.type, public_key=parsed.line, name=name, created_at=now
    )
    return key, private_key


def key_view(key: PublicKey) -> KeyView:
    """Return a key as REST shows it."""
    return KeyView(
        fingerprint=key.fingerprint,
        type=key.type,
        public_key=key.public_key,
        name=key.name,
        created_at=key.created_at,
    )
