"""People in tenants, and their roles on the whole platform, in DynamoDB."""

from __future__ import annotations

from dataclasses import dataclass, replace

from artcafe_common.dynamo import Item, TransactionFailed
from artcafe_common.errors import not_found
from artcafe_common.roles import Role
from artcafe_registry.domain.people import last_owner
from artcafe_registry.domain.records import Member
from artcafe_registry.store.access import all_rows, already_exists, read_page, settle
from artcafe_registry.store.tables import PLATFORM_ROW, Tables, person_hash

_EXISTS = "attribute_exists(#tenant_id) AND #status <> :deleting"
_DELETING = {"deleting": "deleting"}


@dataclass(frozen=True, slots=True)
class PersonRows:
    """Everything about a person: where they are a member, and their roles on the platform."""

    memberships: list[Member]
    platform_roles: list[str]


def membership_ops(tables: Tables, member: Member) -> list[Item]:
    """Return the writes that make a membership, found from both sides; the first fails where it exists."""
    item = _item(member)
    return [
        tables.members.put_op(item, "attribute_not_exists(#user_id)"),
        tables.members.put_op(item | _mirror_key(member.tenant_id, member.user_id)),
    ]


class MemberStore:
    """Reads and writes memberships."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def get(self, tenant_id: str, user_id: str) -> Member | None:
        """Return a person's membership in a tenant, or None."""
        item = await self._tables.members.get({"tenant_id": tenant_id, "user_id": user_id})
        return _member(item, tenant_id, user_id) if item else None

    async def list_page(self, tenant_id: str, limit: int, after: str | None) -> tuple[list[Member], bool]:
        """Return one page of a tenant's people after a user id, and whether there are more."""
        items, more = await read_page(
            self._tables.members,
            "#tenant_id = :tenant",
            {"tenant": tenant_id},
            limit=limit,
            after={"tenant_id": tenant_id, "user_id": after} if after is not None else None,
            filters=[],
            selective=False,
        )
        return [_member(item, tenant_id, item["user_id"]) for item in items], more

    async def person(self, user_id: str) -> PersonRows:
        """Return everything about a person."""
        memberships: list[Member] = []
        platform_roles: list[str] = []
        rows = await all_rows(self._tables.members, "#tenant_id = :person", {"person": person_hash(user_id)})
        for item in rows:
            if item["user_id"] == PLATFORM_ROW:
                platform_roles = item["roles"]
            elif not item["user_id"].startswith("#"):
                memberships.append(_member(item, item["user_id"], user_id))
        return PersonRows(memberships, platform_roles)

    async def set_platform_roles(self, user_id: str, roles: list[str]) -> None:
        """Give a person exactly these roles on the platform."""
        await self._tables.members.put(
            {"tenant_id": person_hash(user_id), "user_id": PLATFORM_ROW, "roles": roles}
        )

    async def add(self, member: Member) -> None:
        """Make a person a member. Raises: ServiceError ``already_exists``, ``not_found`` (the tenant)."""
        writes = [
            *membership_ops(self._tables, member),
            self._tenant_op(member, int(member.role == Role.OWNER)),
        ]

        async def attempt() -> None:
            try:
                await self._tables.dynamo.transact(writes)
            except TransactionFailed as error:
                if 2 in error.failed:
                    raise not_found("tenant") from None
                if 0 in error.failed:
                    raise already_exists("member") from None
                raise

        await settle(attempt)

    async def change(self, old: Member, role: str, email: str, now: str) -> Member:
        """Give a member another role; holds only while they still have the one that was read.

        Raises: ServiceError ``failed_precondition`` for the last owner, ``not_found`` where they are gone.
        """
        values = {"role": role, "email": email, "now": now}
        expression = "SET #role = :role, #email = :email, #updated_at = :now"
        writes = [
            self._tables.members.update_op(
                {"tenant_id": old.tenant_id, "user_id": old.user_id},
                expression,
                values | {"old": old.role},
                "#role = :old",
            ),
            self._tables.members.update_op(
                _mirror_key(old.tenant_id, old.user_id),
                expression,
                values,
                "attribute_exists(#user_id)",
            ),
            self._tenant_op(old, (role == Role.OWNER) - (old.role == Role.OWNER)),
        ]
        await self._carry_out(writes, old)
        return replace(old, role=role, email=email, updated_at=now)

    async def remove(self, old: Member) -> None:
        """End a membership; holds only while they still have the role that was read. Raises: as `change`."""
        writes = [
            self._tables.members.delete_op(
                {"tenant_id": old.tenant_id, "user_id": old.user_id}, "#role = :old", {"old": old.role}
            ),
            self._tables.members.delete_op(_mirror_key(old.tenant_id, old.user_id)),
            self._tenant_op(old, -(old.role == Role.OWNER)),
        ]
        await self._carry_out(writes, old)

    async def remove_all(self, tenant_id: str) -> list[str]:
        """End every membership in a tenant that is being deleted; return whose they were."""
        rows = await all_rows(self._tables.members, "#tenant_id = :tenant", {"tenant": tenant_id})
        # The person's side first: the tenant's side is how the rest is found when this is cut short.
        await self._tables.members.delete_many([_mirror_key(tenant_id, row["user_id"]) for row in rows])
        await self._tables.members.delete_many(
            [{"tenant_id": tenant_id, "user_id": row["user_id"]} for row in rows]
        )
        return [row["user_id"] for row in rows]

    async def _carry_out(self, writes: list[Item], old: Member) -> None:
        async def attempt() -> None:
            try:
                await self._tables.dynamo.transact(writes)
            except TransactionFailed as error:
                if 0 in error.failed:
                    # Changed or gone since it was read: whoever asked decides again.
                    raise not_found("member") from None
                if 2 in error.failed:
                    raise last_owner() from None
                raise

        await settle(attempt)

    def _tenant_op(self, member: Member, owners: int) -> Item:
        key = {"tenant_id": member.tenant_id}
        if owners == 0:
            return self._tables.tenants.check_op(key, _EXISTS, _DELETING)
        condition, values = _EXISTS, {**_DELETING, "owners": owners}
        if owners < 0:
            condition, values = f"{_EXISTS} AND #owners > :one", {**values, "one": 1}
        return self._tables.tenants.update_op(key, "ADD #owners :owners", values, condition)


def _mirror_key(tenant_id: str, user_id: str) -> dict[str, str]:
    return {"tenant_id": person_hash(user_id), "user_id": tenant_id}


def _item(member: Member) -> Item:
    return {
        "tenant_id": member.tenant_id,
        "user_id": member.user_id,
        "role": member.role,
        "email": member.email,
        "created_at": member.created_at,
        "updated_at": member.updated_at,
    }


def _member(item: Item, tenant_id: str, user_id: str) -> Member:
    return Member(
        tenant_id=tenant_id,
        user_id=user_id,
        role=item["role"],
        email=item["email"],
        created_at=item["created_at"],
        updated_at=item["updated_at"],
    )
