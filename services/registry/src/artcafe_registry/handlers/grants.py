"""Who among the agents may use a channel, over REST."""

from __future__ import annotations

from artcafe_common.errors import ErrorCode, not_found
from artcafe_common.http import Call, Operation, PageQuery
from artcafe_common.ids import check_agent_id, check_channel_id
from artcafe_common.roles import Permission
from artcafe_registry.domain.records import GrantRow
from artcafe_registry.services import Services
from artcafe_registry.wire import GrantList, GrantView, PutGrant

LIST_ROUTE = "channel-members"
_PATH = "/channels/{channel_id}/members/{agent_id}"


class GrantHandlers:
    """Handlers of `/channels/{channel_id}/members`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """Return the operations."""
        tags = ("channel members",)
        return [
            Operation(
                "GET",
                "/agents/{agent_id}/channels",
                self.list_agent_channels,
                "List an agent's member rows",
                Permission.CHANNELS_READ,
                description="In all channels, in one page.",
                reply=GrantList,
                errors=(ErrorCode.NOT_FOUND,),
                tags=tags,
            ),
            Operation(
                "GET",
                "/channels/{channel_id}/members",
                self.list_channel_members,
                "List a channel's member rows",
                Permission.CHANNELS_READ,
                query=PageQuery,
                reply=GrantList,
                errors=(ErrorCode.NOT_FOUND,),
                tags=tags,
            ),
            Operation(
                "GET",
                _PATH,
                self.get_channel_member,
                "Read an agent's member row",
                Permission.CHANNELS_READ,
                reply=GrantView,
                errors=(ErrorCode.NOT_FOUND,),
                tags=tags,
            ),
            Operation(
                "PUT",
                _PATH,
                self.put_channel_member,
                "Make or replace an agent's member row",
                Permission.CHANNELS_WRITE,
                body=PutGrant,
                reply=GrantView,
                errors=(ErrorCode.NOT_FOUND,),
                tags=tags,
            ),
            Operation(
                "DELETE",
                _PATH,
                self.delete_channel_member,
                "Remove an agent's member row",
                Permission.CHANNELS_WRITE,
                errors=(ErrorCode.NOT_FOUND,),
                tags=tags,
            ),
        ]

    async def list_channel_members(self, call: Call) -> GrantList:
        """Return one page of a channel's member rows."""
        services = self._services
        channel_id = check_channel_id(call.path["channel_id"])
        if await services.directory.channel(call.tenant_id, channel_id) is None:
            raise not_found("channel")
        route = f"{LIST_ROUTE}/{channel_id}"
        rows, more = await services.store.grants.list_page(
            call.tenant_id,
            channel_id,
            call.query.limit,
            services.position(call.query.next_token, call.tenant_id, route),
        )
        last = rows[-1].agent_id if rows else ""
        return GrantList(
            members=[_view(row) for row in rows],
            next_token=services.next_token(last, more, call.tenant_id, route),
        )

    async def list_agent_channels(self, call: Call) -> GrantList:
        """Return every row of an agent; there are no more than the tenant has channels."""
        agent_id = check_agent_id(call.path["agent_id"])
        if await self._services.directory.agent(call.tenant_id, agent_id) is None:
            raise not_found("agent")
        rows = await self._services.store.grants.of_agent(call.tenant_id, agent_id)
        return GrantList(members=[_view(row) for row in rows], next_token=None)

    async def get_channel_member(self, call: Call) -> GrantView:
        """Return an agent's row."""
        row = await self._services.store.grants.get(call.tenant_id, *_ids(call))
        if row is None:
            raise not_found("member")
        return _view(row)

    async def put_channel_member(self, call: Call) -> GrantView:
        """Make or replace an agent's row."""
        channel_id, agent_id = _ids(call)
        row, work = await self._services.store.grants.put(
            call.tenant_id,
            channel_id,
            agent_id,
            role=call.body.role,
            auto_subscribe=call.body.auto_subscribe,
            now=self._services.now(),
        )
        await self._services.removal.finish(work)
        return _view(row)

    async def delete_channel_member(self, call: Call) -> None:
        """Remove an agent's row."""
        channel_id, agent_id = _ids(call)
        services = self._services
        work = await services.store.grants.delete(call.tenant_id, channel_id, agent_id, services.now())
        if work is None:
            raise not_found("member")
        await services.removal.finish(work)


def _ids(call: Call) -> tuple[str, str]:
    return check_channel_id(call.path["channel_id"]), check_agent_id(call.path["agent_id"])


def _view(row: GrantRow) -> GrantView:
    return GrantView(
        tenant_id=row.tenant_id,
        channel_id=row.channel_id,
        agent_id=row.agent_id,
        role=row.role,
        auto_subscribe=row.auto_subscribe,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
