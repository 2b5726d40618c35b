"""Messages over REST: publishing one; reading kept ones is refused until channels can keep them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from artcafe_common.errors import ErrorCode, invalid, not_found
from artcafe_common.http import Call, Operation
from artcafe_common.ids import check_channel_id, check_not_presence
from artcafe_common.roles import Permission
from artcafe_registry.domain.channels import durable_refused
from artcafe_registry.domain.people import person_name
from artcafe_registry.domain.records import Channel
from artcafe_registry.services import Services
from artcafe_registry.wire import MessageList, MessagesQuery, PublishedMessage

IDEMPOTENCY_HEADER = "idempotency-key"
_PATH = "/channels/{channel_id}/messages"

# Kept as it came: decoding would cost time and change numbers.
_AnyObject = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})]


class MessageHandlers:
    """Handlers of `/channels/{channel_id}/messages`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """Return the operations."""
        tags = ("messages",)
        return [
            Operation(
                "POST",
                _PATH,
                self.publish_message,
                "Publish a message in a channel",
                Permission.MESSAGES_PUBLISH,
                body=_AnyObject,  # type: ignore[arg-type]
                reply=PublishedMessage,
                description=(
                    "The body, any JSON object, is the message's `data`. With an `Idempotency-Key` header the"
                    " message is published once in 24 hours, and every repetition gets the first answer."
                ),
                errors=(
                    ErrorCode.NOT_FOUND,
                    ErrorCode.FAILED_PRECONDITION,
                    ErrorCode.RESOURCE_EXHAUSTED,
                ),
                tags=tags,
            ),
            Operation(
                "GET",
                _PATH,
                self.list_messages,
                "Read what a durable channel has kept",
                Permission.MESSAGES_READ,
                query=MessagesQuery,
                reply=MessageList,
                errors=(ErrorCode.NOT_FOUND, ErrorCode.FAILED_PRECONDITION),
                tags=tags,
            ),
        ]

    async def publish_message(self, call: Call) -> PublishedMessage:
        """Publish the body in a channel."""
        services = self._services
        data = bytes(call.body)
        if not data.startswith(b"{"):
            raise invalid("body: expected a JSON object")
        try:
            data.decode()
        except UnicodeDecodeError:
            raise invalid("body: not valid JSON") from None
        # Whether or not there is one, from before they were reserved.
        check_not_presence(call.path["channel_id"])
        channel = await self._channel(call)
        tenant = await services.directory.tenant(call.tenant_id)
        if tenant is None:
            raise not_found("tenant")
        key = call.request.headers.get(IDEMPOTENCY_HEADER)
        return await services.publisher.publish(tenant, channel, person_name(call.person), data, key)

    async def list_messages(self, call: Call) -> MessageList:
        """Refuse: no channel keeps messages yet."""
        await self._channel(call)
        raise durable_refused()

    async def _channel(self, call: Call) -> Channel:
        channel_id = check_channel_id(call.path["channel_id"])
        channel = await self._services.directory.channel(call.tenant_id, channel_id)
        if channel is None:
            raise not_found("channel")
        return channel
