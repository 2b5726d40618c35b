"""The `next_token` of a list: sealed, so that it says nothing and works only where it was given out."""

from __future__ import annotations

import base64
import binascii
import os
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from artcafe_common.errors import invalid

_NONCE_BYTES = 12
_TOKEN_MAX_LENGTH = 4_096

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class CursorBox:
    """Seals and opens positions with AES-GCM; tenant and route are bound to them."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, position: dict[str, Any] | None, tenant_id: str, route: str) -> str | None:
        """Return the token of a position in a list of a tenant; None at the list's end."""
        if position is None:
            return None
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, _encode(position), _bound(tenant_id, route))
        return base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def open(self, token: str | None, tenant_id: str, route: str) -> dict[str, Any] | None:
        """Return the position of a token that was made for the same tenant and route.

        Raises: ServiceError ``invalid_argument`` for any other.
        """
        if token is None:
            return None
        try:
            if len(token) > _TOKEN_MAX_LENGTH:
                raise ValueError(token)
            sealed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            nonce, text = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            return _decode(self._cipher.decrypt(nonce, text, _bound(tenant_id, route)))
        except (binascii.Error, ValueError, InvalidTag):
            raise invalid("next_token is not valid here") from None


def _bound(tenant_id: str, route: str) -> bytes:
    # No tenant id holds a space, so two pairs never look alike.
    return f"{tenant_id} {route}".encode()
