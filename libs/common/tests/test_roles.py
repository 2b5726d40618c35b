"""What each role may do."""

from __future__ import annotations

import itertools

import pytest

from artcafe_common.roles import (
    PERMISSIONS,
    PLATFORM_PERMISSIONS,
    Permission,
    PlatformRole,
    Role,
    is_role,
    permissions_of,
)


def test_every_role_is_in_the_table() -> None:
    """No role is without its permissions."""
    assert set(PERMISSIONS) == set(Role)
    assert set(PLATFORM_PERMISSIONS) == set(PlatformRole)


@pytest.mark.parametrize("permission", list(Permission))
def test_every_permission_is_some_roles(permission: Permission) -> None:
    """No permission is out of everybody's reach."""
    everything = frozenset().union(*PERMISSIONS.values(), *PLATFORM_PERMISSIONS.values())
    assert permission in everything


def test_roles_build_on_each_other() -> None:
    """An owner may do all that an admin may, and so on down to the viewer."""
    ladder = [Role.VIEWER, Role.MEMBER, Role.ADMIN, Role.OWNER]
    for lower, higher in itertools.pairwise(ladder):
        assert PERMISSIONS[lower] < PERMISSIONS[higher]


def test_tenants_are_run_by_the_platform_only() -> None:
    """No role in a tenant creates or suspends tenants."""
    assert all(Permission.TENANTS_ADMIN not in allowed for allowed in PERMISSIONS.values())


def test_platform_does_not_read_messages() -> None:
    """Nobody of the platform reads or writes what agents say to each other."""
    for allowed in PLATFORM_PERMISSIONS.values():
        assert not allowed & {Permission.MESSAGES_READ, Permission.MESSAGES_PUBLISH}


def test_viewer_and_billing_change_nothing() -> None:
    """Roles for looking have no permission to write."""
    for role in (Role.VIEWER, Role.BILLING):
        assert all(permission.value.endswith(":read") for permission in PERMISSIONS[role])


@pytest.mark.parametrize("role", [None, "", "Owner", "OWNER", "root", "platform_admin", "owner "])
def test_unknown_role_allows_nothing(role: str | None) -> None:
    """A role that is not in the table is no role; a platform's role is none in a tenant."""
    assert not is_role(role)
    assert permissions_of(role) == frozenset()


@pytest.mark.parametrize("role", ["owner", "root", ""])
def test_unknown_platform_role_allows_nothing(role: str) -> None:
    """A tenant's role is none of the platform."""
    assert permissions_of(None, (role,)) == frozenset()


def test_roles_add_up() -> None:
    """Somebody with several roles may do what any of them allows."""
    both = permissions_of("viewer", ("billing", "unknown"))
    assert both == PERMISSIONS[Role.VIEWER] | PLATFORM_PERMISSIONS[PlatformRole.BILLING]
