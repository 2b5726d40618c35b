"""The command that gives people roles on the whole platform, and takes them away."""

from __future__ import annotations

from collections.abc import Collection

from artcafe_common.errors import invalid
from artcafe_registry.config import CommandConfig
from artcafe_registry.process import connect_store
from artcafe_registry.store import Store


async def change_platform_roles(
    config: CommandConfig, user_id: str, give: Collection[str], take: Collection[str]
) -> list[str]:
    """Give a person some roles on the platform and take others; return those that they have then.

    Services that run hear nothing of it, and know within seconds: nobody is remembered for longer. Dashboards
    that are open are looked at by their gateways once a minute.

    Raises: ServiceError.
    """
    if not user_id or not user_id.isprintable():
        raise invalid("the user id is not one of a person")
    async with connect_store(config) as dynamo:
        members = Store(dynamo).members
        had = (await members.person(user_id)).platform_roles
        roles = [role for role in had if role not in take]
        roles += [role for role in give if role not in roles]
        if roles != had:
            await members.set_platform_roles(user_id, roles)
    return roles
