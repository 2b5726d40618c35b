"""Which tenant a token opens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from artcafe_common.contracts.registry import Membership, TenantStatus
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.roles import PERMISSIONS, PLATFORM_PERMISSIONS, Permission, PlatformRole, Role
from artcafe_common.tokens import Access

from .support import FrozenClock
from .token_support import Registry, claims_of, make_token, refused


def _row(tenant_id: str, role: str = "member", status: TenantStatus = "active") -> Membership:
    return Membership(tenant_id=tenant_id, role=role, tenant_status=status)


Opening = Callable[..., Awaitable[Any]]


@pytest.fixture
def opening(access: Access, clock: FrozenClock) -> Opening:
    """Open a tenant with a token of the given claims."""

    async def opened(wanted: str | None = None, **claims: Any) -> Any:
        return await access.scope(make_token(claims_of(clock, **claims)), wanted)

    return opened


async def test_only_tenant_is_opened(opening: Opening, registry: Registry) -> None:
    """A person of one tenant need not name it."""
    registry.rows["person-1"] = [_row("t1", "admin")]
    for wanted in (None, "t1"):
        scope = await opening(wanted)
        assert (scope.tenant_id, scope.role, scope.permissions) == ("t1", "admin", PERMISSIONS[Role.ADMIN])


async def test_tenant_must_be_chosen_among_several(opening: Opening, registry: Registry) -> None:
    """A person of several tenants names one; none is taken for them."""
    registry.rows["person-1"] = [_row("t1"), _row("t2", "viewer")]
    assert "X-Tenant-Id" in (await refused(opening(), ErrorCode.INVALID_ARGUMENT)).detail
    assert (await opening("t2")).role == "viewer"


async def test_nobody_belongs_to_a_tenant_by_default(opening: Opening) -> None:
    """A person without membership gets no tenant, and is told how to make one."""
    assert "POST /api/v1/tenants" in (await refused(opening(), ErrorCode.PERMISSION_DENIED)).detail


@pytest.mark.parametrize("wanted", ["t2", "t10", "T1", "t", "t1 "])
async def test_tenant_of_others_is_refused(opening: Opening, registry: Registry, wanted: str) -> None:
    """Asking for a tenant that one does not belong to gets nothing, whether it exists or not."""
    registry.rows["person-1"] = [_row("t1", "owner")]
    registry.tenants["t2"] = "active"
    error = await refused(opening(wanted), ErrorCode.PERMISSION_DENIED)
    assert error.detail == "you are not a member of this organisation"


async def test_no_tenant_is_opened_with_a_bad_token(access: Access, registry: Registry) -> None:
    """Nothing is asked of registry for a token that does not hold."""
    registry.rows["person-1"] = [_row("t1")]
    await refused(access.scope("garbage", "t1"))


async def test_suspended_tenant_is_closed(opening: Opening, registry: Registry) -> None:
    """Members of a suspended tenant get nothing, by row or by claim."""
    registry.rows["person-1"] = [_row("t1", "owner", "suspended")]
    assert "suspended" in (await refused(opening("t1"), ErrorCode.PERMISSION_DENIED)).detail
    registry.rows.clear()
    registry.tenants["t2"] = "suspended"
    await refused(opening(tenant_id="t2", role="owner"), ErrorCode.PERMISSION_DENIED)


async def test_claimed_tenant_is_opened(opening: Opening, registry: Registry) -> None:
    """A tenant that a trusted issuer states, and that exists, needs no row."""
    registry.tenants["t1"] = "active"
    scope = await opening(tenant_id="t1", role="viewer")
    assert (scope.tenant_id, scope.role) == ("t1", "viewer")
    assert (await opening("t1", tenant_id="t1")).role == "member"


async def test_claimed_tenant_that_does_not_exist_is_refused(opening: Opening, registry: Registry) -> None:
    """A claim does not make a tenant, and does not lead into another one either."""
    registry.rows["person-1"] = [_row("t1")]
    await refused(opening(tenant_id="nowhere", role="owner"), ErrorCode.PERMISSION_DENIED)
    await refused(opening("nowhere", tenant_id="nowhere", role="owner"), ErrorCode.PERMISSION_DENIED)
    assert (await opening("t1", tenant_id="nowhere")).tenant_id == "t1"


async def test_row_counts_more_than_a_claim(opening: Opening, registry: Registry) -> None:
    """Where a row speaks of the claimed tenant, its role holds."""
    registry.rows["person-1"] = [_row("t1", "viewer")]
    registry.tenants["t1"] = "active"
    assert (await opening(tenant_id="t1", role="owner")).role == "viewer"


async def test_claimed_tenant_does_not_open_others(opening: Opening, registry: Registry) -> None:
    """A person of the claimed tenant and another one may choose, and nothing else."""
    registry.tenants.update({"t1": "active", "t3": "active"})
    registry.rows["person-1"] = [_row("t2", "viewer")]
    assert (await opening(tenant_id="t1")).tenant_id == "t1"
    assert (await opening("t2", tenant_id="t1")).tenant_id == "t2"
    await refused(opening("t3", tenant_id="t1"), ErrorCode.PERMISSION_DENIED)


@pytest.mark.parametrize("role", ["superuser", "platform_admin", "Owner"])
async def test_role_that_is_none_allows_nothing(opening: Opening, registry: Registry, role: str) -> None:
    """A role that this version does not know, in a row or a claim, allows nothing."""
    registry.rows["person-1"] = [_row("t1", role)]
    assert (await opening("t1")).permissions == frozenset()
    registry.tenants["t2"] = "active"
    scope = await opening("t2", tenant_id="t2", role=role)
    assert scope.permissions == frozenset()
    with pytest.raises(ServiceError) as caught:
        scope.require(Permission.AGENTS_READ)
    assert caught.value.code == ErrorCode.PERMISSION_DENIED


async def test_platform_admin_visits_the_tenant_they_ask_for(opening: Opening, registry: Registry) -> None:
    """A platform's role opens any tenant that is named, also a suspended one, for what that role may do."""
    registry.platform_roles["person-1"] = ["platform_admin"]
    scope = await opening("t9")
    assert (scope.tenant_id, scope.role) == ("t9", "platform_admin")
    assert scope.permissions == PLATFORM_PERMISSIONS[PlatformRole.PLATFORM_ADMIN]
    registry.rows["person-1"] = [_row("t1", "viewer", "suspended")]
    scope = await opening("t1")
    assert scope.permissions == PERMISSIONS[Role.VIEWER] | PLATFORM_PERMISSIONS[PlatformRole.PLATFORM_ADMIN]


async def test_platform_admin_without_a_tenant_is_refused(opening: Opening, registry: Registry) -> None:
    """Without naming a tenant a platform's role opens none, also with a claim of one that does not exist."""
    registry.platform_roles["person-1"] = ["platform_admin"]
    await refused(opening(), ErrorCode.PERMISSION_DENIED)
    await refused(opening(tenant_id="nowhere"), ErrorCode.PERMISSION_DENIED)


async def test_scope_allows_what_its_role_allows(opening: Opening, registry: Registry) -> None:
    """A permission of the role is granted, another one refused with both named."""
    registry.rows["person-1"] = [_row("t1", "viewer")]
    scope = await opening()
    scope.require(Permission.AGENTS_READ)
    with pytest.raises(ServiceError) as caught:
        scope.require(Permission.AGENTS_WRITE)
    assert caught.value.code == ErrorCode.PERMISSION_DENIED
    assert "viewer" in caught.value.detail
    assert "agents:write" in caught.value.detail
