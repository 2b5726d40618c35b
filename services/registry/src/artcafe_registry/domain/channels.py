"""Ids of channels made from names, and what cannot be asked of a channel yet."""

from __future__ import annotations

import re
import unicodedata

from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.ids import CHANNEL_ID_MAX_LENGTH

_TOKEN_MAX_LENGTH = 64
_DURABLE_REFUSED = "durable channels are not offered yet: leave out `retention` and use delivery `live`"


def slug(name: str) -> str:
    """Return the channel id that a name gives: lower case, words joined by `-`, dots kept.

    It is empty where the name holds nothing that an id may hold.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    tokens = (
        re.sub(r"[^a-z0-9_]+", "-", token).strip("-")[:_TOKEN_MAX_LENGTH].rstrip("-")
        for token in plain.split(".")
    )
    joined = ".".join(token for token in tokens if token)
    return joined[:CHANNEL_ID_MAX_LENGTH].rstrip("-.")


def check_delivery(delivery: str | None, retention: object) -> None:
    """Refuse what is not offered yet: delivery ``durable`` and any retention."""
    if delivery == "durable" or retention is not None:
        raise durable_refused()


def durable_refused() -> ServiceError:
    """Return the error for what only durable channels will have."""
    return ServiceError(ErrorCode.FAILED_PRECONDITION, _DURABLE_REFUSED)
