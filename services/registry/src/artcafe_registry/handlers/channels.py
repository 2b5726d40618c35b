"""Channels over REST."""

from __future__ import annotations

from artcafe_common.errors import ErrorCode, not_found
from artcafe_common.http import Call, Operation, PageQuery
from artcafe_common.ids import check_channel_id, check_not_presence, new_ulid
from artcafe_common.roles import Permission
from artcafe_registry.domain.bounds import check_metadata
from artcafe_registry.domain.channels import check_delivery, slug
from artcafe_registry.domain.people import person_name
from artcafe_registry.domain.records import Channel
from artcafe_registry.handlers.given import given_fields
from artcafe_registry.services import Services
from artcafe_registry.wire import ChannelList, ChannelView, CreateChannel, UpdateChannel

LIST_ROUTE = "channels"


class ChannelHandlers:
    """Handlers of `/channels`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """Return the operations."""
        tags = ("channels",)
        return [
            Operation(
                "GET",
                "/channels",
                self.list_channels,
                "List channels",
                Permission.CHANNELS_READ,
                query=PageQuery,
                reply=ChannelList,
                tags=tags,
            ),
            Operation(
                "POST",
                "/channels",
                self.create_channel,
                "Create a channel",
                Permission.CHANNELS_WRITE,
                body=CreateChannel,
                reply=ChannelView,
                status=201,
                description="Without `channel_id` it is made from `name`: lower case, words joined by `-`.",
                errors=(
                    ErrorCode.ALREADY_EXISTS,
                    ErrorCode.FAILED_PRECONDITION,
                    ErrorCode.RESOURCE_EXHAUSTED,
                    ErrorCode.NOT_FOUND,
                ),
                tags=tags,
            ),
            Operation(
                "GET",
                "/channels/{channel_id}",
                self.get_channel,
                "Read a channel",
                Permission.CHANNELS_READ,
                reply=ChannelView,
                description="At most five seconds old; with `Cache-Control: no-cache` what is stored now.",
                errors=(ErrorCode.NOT_FOUND,),
                tags=tags,
            ),
            Operation(
                "PUT",
                "/channels/{channel_id}",
                self.update_channel,
                "Replace fields of a channel",
                Permission.CHANNELS_WRITE,
                body=UpdateChannel,
                reply=ChannelView,
                errors=(ErrorCode.NOT_FOUND, ErrorCode.FAILED_PRECONDITION),
                tags=tags,
            ),
            Operation(
                "DELETE",
                "/channels/{channel_id}",
                self.delete_channel,
                "Delete a channel with its member rows",
                Permission.CHANNELS_WRITE,
                errors=(ErrorCode.NOT_FOUND,),
                tags=tags,
            ),
        ]

    async def list_channels(self, call: Call) -> ChannelList:
        """Return one page of the tenant's channels."""
        services = self._services
        channels, more = await services.store.channels.list_page(
            call.tenant_id,
            call.query.limit,
            services.position(call.query.next_token, call.tenant_id, LIST_ROUTE),
        )
        last = channels[-1].channel_id if channels else ""
        return ChannelList(
            channels=[channel_view(channel) for channel in channels],
            next_token=services.next_token(last, more, call.tenant_id, LIST_ROUTE),
        )

    async def create_channel(self, call: Call) -> ChannelView:
        """Make a channel."""
        services, body = self._services, call.body
        check_delivery(body.delivery, body.retention)
        channel_id = check_channel_id(body.channel_id or slug(body.name) or new_ulid(services.clock.now()))
        now = services.now()
        channel = Channel(
            tenant_id=call.tenant_id,
            channel_id=check_not_presence(channel_id),
            name=body.name,
            description=body.description,
            access=body.access,
            metadata=check_metadata(body.metadata),
            created_at=now,
            updated_at=now,
            created_by=person_name(call.person),
        )
        await services.store.channels.create(channel)
        await services.changes.tell(channel.tenant_id, "channel", channel.channel_id, "created")
        return channel_view(channel)

    async def get_channel(self, call: Call) -> ChannelView:
        """Return a channel."""
        channel_id = check_channel_id(call.path["channel_id"])
        channel = await self._services.directory.channel(call.tenant_id, channel_id, fresh=call.wants_fresh)
        if channel is None:
            raise not_found("channel")
        return channel_view(channel)

    async def update_channel(self, call: Call) -> ChannelView:
        """Replace the given fields."""
        services = self._services
        channel_id = check_channel_id(call.path["channel_id"])
        changes = given_fields(call.body)
        check_delivery(changes.get("delivery"), changes.pop("retention", None))
        channel, work = await services.store.channels.update(
            call.tenant_id, channel_id, changes, services.now()
        )
        await services.removal.finish(work)
        return channel_view(channel)

    async def delete_channel(self, call: Call) -> None:
        """Delete a channel."""
        channel_id = check_channel_id(call.path["channel_id"])
        await self._services.removal.delete_channel(call.tenant_id, channel_id)


def channel_view(channel: Channel) -> ChannelView:
    """Return a channel as REST shows it."""
    return ChannelView(
        id=channel.channel_id,
        channel_id=channel.channel_id,
        tenant_id=channel.tenant_id,
        name=channel.name,
        description=channel.description,
        access=channel.access,
        delivery=channel.delivery,
        retention=None,
        metadata=channel.metadata,
        created_at=channel.created_at,
        updated_at=channel.updated_at,
        created_by=channel.created_by,
    )
