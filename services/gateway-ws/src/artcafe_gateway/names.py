"""How a client's name for a channel becomes a channel id: the same for publishing and subscribing.

A client may write the id itself or the full subject of its own tenant (``tenant.{tenant_id}.channel.{id}``).
Another tenant's subject is refused; it could not reach that tenant anyway, since every name ends up below the
client's own prefix, but saying so is kinder than a channel with a misleading name.
"""

from __future__ import annotations

from artcafe_common.errors import permission_denied
from artcafe_common.ids import check_channel_id, check_pattern

_SUBJECT_ROOT = "tenant."


def channel_named(name: str, tenant_id: str) -> str:
    """Return the channel id that a name stands for.

    Raises: ServiceError ``invalid_argument`` for a wildcard or a malformed id, ``permission_denied``.
    """
    return check_channel_id(_short(name, tenant_id))


def pattern_named(name: str, tenant_id: str) -> str:
    """Return the channel id or pattern that a name stands for.

    Raises: ServiceError ``invalid_argument``, ``permission_denied``.
    """
    return check_pattern(_short(name, tenant_id))


def _short(name: str, tenant_id: str) -> str:
    if not name.startswith(_SUBJECT_ROOT):
        return name
    own = f"tenant.{tenant_id}.channel."
    if not name.startswith(own):
        raise permission_denied("a subject of another tenant")
    return name[len(own) :]
