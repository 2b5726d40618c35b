"""What each role of a person may do: the one table that all services ask."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeGuard


class Role(StrEnum):
    """A person's role in one tenant."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"
    BILLING = "billing"


class PlatformRole(StrEnum):
    """A person's role on the whole platform."""

    PLATFORM_ADMIN = "platform_admin"
    BILLING = "billing"


class Permission(StrEnum):
    """One kind of thing that a person may do in a tenant."""

    AGENTS_READ = "agents:read"
    AGENTS_WRITE = "agents:write"
    CHANNELS_READ = "channels:read"
    CHANNELS_WRITE = "channels:write"
    MESSAGES_READ = "messages:read"
    MESSAGES_PUBLISH = "messages:publish"
    TENANT_READ = "tenant:read"
    TENANT_WRITE = "tenant:write"
    TENANT_DELETE = "tenant:delete"
    MEMBERS_READ = "members:read"
    MEMBERS_WRITE = "members:write"
    USAGE_READ = "usage:read"
    # Of the platform, not of a tenant: plan, suspension, the list of all tenants.
    TENANTS_ADMIN = "tenants:admin"


_VIEWER = frozenset(
    {
        Permission.AGENTS_READ,
        Permission.CHANNELS_READ,
        Permission.MESSAGES_READ,
        Permission.TENANT_READ,
        Permission.MEMBERS_READ,
    }
)
_MEMBER = _VIEWER | {Permission.AGENTS_WRITE, Permission.CHANNELS_WRITE, Permission.MESSAGES_PUBLISH}
_ADMIN = _MEMBER | {Permission.TENANT_WRITE, Permission.MEMBERS_WRITE, Permission.USAGE_READ}
_OWNER = _ADMIN | {Permission.TENANT_DELETE}

PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.OWNER: _OWNER,
    Role.ADMIN: _ADMIN,
    Role.MEMBER: _MEMBER,
    Role.VIEWER: _VIEWER,
    Role.BILLING: frozenset({Permission.TENANT_READ, Permission.USAGE_READ}),
}

# In every tenant. A platform admin runs tenants but does not read or write what agents say to each other.
PLATFORM_PERMISSIONS: Mapping[PlatformRole, frozenset[Permission]] = {
    PlatformRole.PLATFORM_ADMIN: frozenset(
        {
            Permission.AGENTS_READ,
            Permission.CHANNELS_READ,
            Permission.TENANT_READ,
            Permission.TENANT_WRITE,
            Permission.TENANT_DELETE,
            Permission.MEMBERS_READ,
            Permission.MEMBERS_WRITE,
            Permission.USAGE_READ,
            Permission.TENANTS_ADMIN,
        }
    ),
    PlatformRole.BILLING: frozenset({Permission.TENANT_READ, Permission.USAGE_READ}),
}


_ROLES = frozenset(role.value for role in Role)
_PLATFORM_ROLES = frozenset(role.value for role in PlatformRole)


def is_role(name: str | None) -> TypeGuard[str]:
    """Tell whether a name is a role that this version knows."""
    return name in _ROLES


def permissions_of(role: str | None, platform_roles: tuple[str, ...] = ()) -> frozenset[Permission]:
    """Return all that a role and platform roles allow; one that this version does not know allows nothing."""
    allowed: frozenset[Permission] = frozenset()
    if is_role(role):
        allowed |= PERMISSIONS[Role(role)]
    for name in platform_roles:
        # By value: Python 3.11 refuses to look for a string in an enumeration.
        if name in _PLATFORM_ROLES:
            allowed |= PLATFORM_PERMISSIONS[PlatformRole(name)]
    return allowed
