"""Tenants over REST."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from msgspec import UNSET

from artcafe_common.errors import ErrorCode, not_found, permission_denied
from artcafe_common.http import Call, Operation, PageQuery
from artcafe_common.http.app import bearer_token
from artcafe_common.ids import check_tenant_id, new_ulid
from artcafe_common.roles import Permission, PlatformRole, Role, permissions_of
from artcafe_common.tokens import TenantScope, not_a_member
from artcafe_registry.domain.people import MONTHLY_TENANTS_MAX, OWNED_TENANTS_MAX, check_user_id
from artcafe_registry.domain.plans import FREE_PLAN
from artcafe_registry.domain.records import Member, Tenant
from artcafe_registry.handlers.given import given_fields
from artcafe_registry.services import Services
from artcafe_registry.store.access import settle
from artcafe_registry.store.pending import Work
from artcafe_registry.wire import CreateTenant, TenantList, TenantView, UpdateTenant

LIST_ROUTE = "tenants"
_PLATFORM = "#platform"
_PLATFORM_FIELDS = ("plan", "status", "limits", "owner_user_id")


class TenantHandlers:
    """Handlers of `/tenants`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """Return the operations."""
        tags = ("tenants",)
        return [
            Operation(
                "GET",
                "/tenants",
                self.list_tenants,
                "List the caller's tenants",
                "person",
                query=PageQuery,
                reply=TenantList,
                description="Whoever has a role on the platform gets all tenants, in no order.",
                tags=tags,
            ),
            Operation(
                "POST",
                "/tenants",
                self.create_tenant,
                "Create a tenant; its maker becomes its owner",
                "person",
                body=CreateTenant,
                reply=TenantView,
                status=201,
                description=(
                    "Anyone who is signed in may create tenants of the plan `free`, where the platform allows"
                    f" that: {OWNED_TENANTS_MAX} at most, and {MONTHLY_TENANTS_MAX} in a calendar month with"
                    " those that were deleted; a platform administrator tenants of any plan, also for others."
                ),
                errors=(ErrorCode.ALREADY_EXISTS, ErrorCode.FAILED_PRECONDITION),
                tags=tags,
            ),
            Operation(
                "GET",
                "/tenants/{tenant_id}",
                self.get_tenant,
                "Read a tenant with its plan and limits",
                Permission.TENANT_READ,
                reply=TenantView,
                errors=(ErrorCode.NOT_FOUND,),
                tags=tags,
            ),
            Operation(
                "PUT",
                "/tenants/{tenant_id}",
                self.update_tenant,
                "Change a tenant; plan, limits and suspension by platform administrators",
                Permission.TENANT_WRITE,
                body=UpdateTenant,
                reply=TenantView,
                errors=(ErrorCode.NOT_FOUND,),
                tags=tags,
            ),
            Operation(
                "DELETE",
                "/tenants/{tenant_id}",
                self.delete_tenant,
                "Delete a tenant with everything in it",
                # One whose deletion was begun is found by nobody else's check, and must be deletable again.
                "person",
                description="Takes the permission tenant:delete. What was cut short may be asked for again.",
                errors=(ErrorCode.NOT_FOUND, ErrorCode.PERMISSION_DENIED),
                tags=tags,
            ),
        ]

    async def list_tenants(self, call: Call) -> TenantList:
        """Return one page of the caller's tenants, or of all."""
        services = self._services
        services.limits.on_person(call.person)
        if call.wants_fresh:
            await services.directory.reread_person(call.person.user_id)
        known = await services.access.memberships(call.person)
        above = next((role for role in PlatformRole if role in known.platform_roles), None)
        if above is not None:
            return await self._list_all(call, {m.tenant_id: m.role for m in known.memberships}, above)
        owner = f"#person#{call.person.user_id}"
        after = services.position(call.query.next_token, owner, LIST_ROUTE) or ""
        mine = sorted(
            (m for m in known.memberships if m.tenant_id > after), key=lambda membership: membership.tenant_id
        )
        page = mine[: call.query.limit]
        tenants = await asyncio.gather(
            *(services.directory.tenant(m.tenant_id, fresh=call.wants_fresh) for m in page)
        )
        return TenantList(
            tenants=[_view(t, m.role) for t, m in zip(tenants, page, strict=True) if t is not None],
            next_token=services.next_token(
                page[-1].tenant_id if page else "", len(mine) > len(page), owner, LIST_ROUTE
            ),
        )

    async def _list_all(self, call: Call, roles: Mapping[str, str], above: PlatformRole) -> TenantList:
        services = self._services
        position = services.cursors.open(call.query.next_token, _PLATFORM, LIST_ROUTE)
        tenants, following = await services.store.tenants.list_all(call.query.limit, position)
        return TenantList(
            tenants=[_view(t, roles.get(t.tenant_id, above)) for t in tenants],
            next_token=services.cursors.seal(following, _PLATFORM, LIST_ROUTE),
        )

    async def create_tenant(self, call: Call) -> TenantView:
        """Make a tenant and its owner."""
        services, body = self._services, call.body
        services.limits.on_person(call.person)
        known = await services.access.memberships(call.person)
        administrator = PlatformRole.PLATFORM_ADMIN in known.platform_roles
        if not administrator:
            self._check_self_service(body)
        now = services.now()
        wanted_auto = body.auto_create_channels
        tenant = Tenant(
            tenant_id=check_tenant_id(body.tenant_id or new_ulid(services.clock.now())),
            name=body.name,
            plan=FREE_PLAN if body.plan is UNSET else body.plan,
            overrides={} if body.limits is UNSET else given_fields(body.limits),
            auto_create_channels=services.auto_create_channels if wanted_auto is None else wanted_auto,
            created_at=now,
            updated_at=now,
            created_by=call.person.user_id,
            self_service=not administrator,
        )
        given_owner = body.owner_user_id is not UNSET
        owner = Member(
            tenant_id=tenant.tenant_id,
            user_id=check_user_id(body.owner_user_id) if given_owner else call.person.user_id,
            role=Role.OWNER,
            email="" if given_owner else call.person.email,
            created_at=now,
            updated_at=now,
        )
        await services.store.tenants.create(tenant, owner)
        await services.changes.tell(tenant.tenant_id, "tenant", tenant.tenant_id, "created")
        await services.changes.tell(tenant.tenant_id, "member", owner.user_id, "created")
        return _view(tenant, PlatformRole.PLATFORM_ADMIN if given_owner else Role.OWNER)

    def _check_self_service(self, body: CreateTenant) -> None:
        if not self._services.self_service_tenants:
            raise permission_denied("only platform administrators create organisations here")
        if body.plan not in (UNSET, FREE_PLAN) or body.limits is not UNSET or body.owner_user_id is not UNSET:
            raise permission_denied("only platform administrators choose plan, limits or owner")

    async def get_tenant(self, call: Call) -> TenantView:
        """Return a tenant with its counts as they stand."""
        tenant = await self._tenant(call.tenant_id)
        return _view(tenant, call.scope.role)

    async def update_tenant(self, call: Call) -> TenantView:
        """Change a tenant."""
        services = self._services
        given = given_fields(call.body)
        if any(name in given for name in _PLATFORM_FIELDS):
            call.scope.require(Permission.TENANTS_ADMIN)
        wanted_limits = given.pop("limits", UNSET)
        now = services.now()

        async def attempt() -> tuple[Tenant, Work]:
            tenant = await self._tenant(call.tenant_id)
            changes: dict[str, Any] = dict(given)
            if wanted_limits is None:
                changes["overrides"] = {}
            elif wanted_limits is not UNSET:
                changes["overrides"] = tenant.overrides | given_fields(wanted_limits)
            updated = await services.store.tenants.update(tenant, changes, now)
            if updated is None:
                raise not_found("tenant")
            return updated

        updated, work = await settle(attempt)
        await services.removal.finish(work)
        return _view(updated, call.scope.role)

    async def delete_tenant(self, call: Call) -> None:
        """Delete a tenant."""
        services = self._services
        tenant_id = check_tenant_id(call.path["tenant_id"])
        # Whoever belongs nowhere is held by no tenant's rate.
        services.limits.on_person(call.person)
        tenant = await services.store.tenants.get(tenant_id)
        if tenant is not None and tenant.status == "deleting":
            rows = await services.store.members.person(call.person.user_id)
            roles = [row.role for row in rows.memberships if row.tenant_id == tenant_id]
            if not roles and not rows.platform_roles:
                # As if there were no such tenant.
                raise not_a_member()
            permissions = permissions_of(roles[0] if roles else None, tuple(rows.platform_roles))
            scope = TenantScope(call.person, tenant_id, roles[0] if roles else "none", permissions)
        else:
            scope = await services.access.scope(bearer_token(call.request), tenant_id)
            await services.limits.on_call(scope)
        scope.require(Permission.TENANT_DELETE)
        await services.removal.delete_tenant(tenant_id)

    async def _tenant(self, tenant_id: str) -> Tenant:
        tenant = await self._services.store.tenants.get(tenant_id)
        if tenant is None or tenant.status == "deleting":
            raise not_found("tenant")
        return tenant


def _view(tenant: Tenant, role: str) -> TenantView:
    return TenantView(
        id=tenant.tenant_id,
        tenant_id=tenant.tenant_id,
        name=tenant.name,
        status=tenant.public_status,
        plan=tenant.plan,
        limits=tenant.limits,
        agents=tenant.agents,
        channels=tenant.channels,
        auto_create_channels=tenant.auto_create_channels,
        role=role,
        created_at=tenant.created_at,
        updated_at=tenant.updated_at,
    )
