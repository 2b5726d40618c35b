"""The command beside serving: the first tenant with its owner."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from artcafe_common.bus import Bus
from artcafe_common.clock import SystemClock, rfc3339
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.ids import check_tenant_id
from artcafe_common.roles import PlatformRole, Role
from artcafe_common.tables import care_of
from artcafe_registry.changes import Changes
from artcafe_registry.config import CommandConfig
from artcafe_registry.domain.records import Member, Tenant
from artcafe_registry.process import connect_store
from artcafe_registry.store import TABLES, Store

logger = logging.getLogger(__name__)

NATS_TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstTenant:
    """What `bootstrap` makes sure of."""

    tenant_id: str
    name: str
    plan: str
    owner_user_id: str
    platform_admin: bool
    auto_create_channels: bool
    owner_email: str = ""


async def bootstrap(config: CommandConfig, wanted: FirstTenant) -> None:
    """Make a tenant, its owner and, if asked, a platform administrator, where they are missing.

    What exists stays as it is: somebody may have changed it since. Raises: ServiceError.
    """
    check_tenant_id(wanted.tenant_id)
    async with connect_store(config) as dynamo:
        if config.create_tables:
            await dynamo.create_tables(TABLES, care_of(config, "registry"))
        store = Store(dynamo)
        made = await _make_tenant(store, wanted)
        if wanted.platform_admin:
            await _make_platform_admin(store, wanted.owner_user_id)
        await _tell(config, wanted, made)


async def _make_tenant(store: Store, wanted: FirstTenant) -> bool:
    now = rfc3339(SystemClock().now())
    owner = Member(
        tenant_id=wanted.tenant_id,
        user_id=wanted.owner_user_id,
        role=Role.OWNER,
        email=wanted.owner_email,
        created_at=now,
        updated_at=now,
    )
    tenant = Tenant(
        tenant_id=wanted.tenant_id,
        name=wanted.name,
        plan=wanted.plan,
        auto_create_channels=wanted.auto_create_channels,
        created_at=now,
        updated_at=now,
        created_by=wanted.owner_user_id,
    )
    try:
        await store.tenants.create(tenant, owner)
        return True
    except ServiceError as error:
        if error.code != ErrorCode.ALREADY_EXISTS:
            raise
    if await store.tenants.get(wanted.tenant_id) is None:
        raise ServiceError(
            ErrorCode.FAILED_PRECONDITION, "a tenant of this id was deleted, and ids are not used again"
        )
    try:
        await store.members.add(owner)
    except ServiceError as error:
        if error.code != ErrorCode.ALREADY_EXISTS:
            raise
    return False


async def _make_platform_admin(store: Store, user_id: str) -> None:
    roles = (await store.members.person(user_id)).platform_roles
    if PlatformRole.PLATFORM_ADMIN not in roles:
        await store.members.set_platform_roles(user_id, [*roles, PlatformRole.PLATFORM_ADMIN])


async def _tell(config: CommandConfig, wanted: FirstTenant, made: bool) -> None:
    if not config.nats_url:
        return
    password = config.nats_password.reveal() if config.nats_password else None
    try:
        async with asyncio.timeout(NATS_TIMEOUT_SECONDS):
            bus = await Bus.open(
                config.nats_url, name="registry-bootstrap", user=config.nats_user, password=password
            )
    except TimeoutError:
        # Nobody who runs without NATS has cached anything for long.
        logger.warning("bootstrap_not_told")
        return
    changes = Changes(bus)
    await changes.tell(wanted.tenant_id, "tenant", wanted.tenant_id, "created" if made else "updated")
    await changes.tell(wanted.tenant_id, "member", wanted.owner_user_id, "updated")
    await bus.close_gracefully()
