"""What the registry is told by its environment."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

import msgspec

from artcafe_common.config import ConfigError, Secret, SharedConfig, describe

PREFIX = "REGISTRY_"
CURSOR_KEY_BYTES = 32

_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class CommandConfig(SharedConfig, frozen=True, kw_only=True):
    """What the commands beside `serve` need: the store, and NATS only where it is set."""

    nats_url: Annotated[str, describe("NATS servers, separated by commas; told of changes where set")] = ""
    http_host: Annotated[str, describe("Address on which HTTP is served")] = "127.0.0.1"
    http_port: Annotated[_Port, describe("Port on which HTTP is served")] = 8102
    cursor_key: Annotated[
        Secret | None,
        describe("Key of the `next_token`s: 32 random bytes in base64, the same for every replica"),
    ] = None
    self_service_tenants: Annotated[
        bool,
        describe("Whether anyone who is signed in may create a tenant (plan free, at most 3, and 6 a month)"),
    ] = False
    auto_create_channels: Annotated[
        bool, describe("Whether new tenants let agents create channels by using them, unless said otherwise")
    ] = False


class RegistryConfig(CommandConfig, frozen=True, kw_only=True):
    """What the service needs."""

    nats_url: Annotated[str, describe("NATS servers, separated by commas, e.g. `nats://127.0.0.1:4222`")]
    cursor_key: Annotated[
        Secret, describe("Key of the `next_token`s: 32 random bytes in base64, the same for every replica")
    ]

    def cursor_key_bytes(self) -> bytes:
        """Return the key itself. Raises: ConfigError where it is not 32 bytes in base64."""
        try:
            key = base64.b64decode(self.cursor_key.reveal(), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != CURSOR_KEY_BYTES:
            raise ConfigError([f"{PREFIX}CURSOR_KEY is not valid: expected 32 bytes in base64"])
        return key
