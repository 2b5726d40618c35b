"""People of a tenant over REST."""

from __future__ import annotations

from artcafe_common.errors import ErrorCode, invalid, not_found
from artcafe_common.http import Call, Operation, PageQuery
from artcafe_common.roles import Permission
from artcafe_registry.domain.people import check_may_set, check_user_id
from artcafe_registry.domain.records import Member
from artcafe_registry.handlers.given import given_fields
from artcafe_registry.services import Services
from artcafe_registry.wire import AddMember, MemberList, MemberView, UpdateMember

LIST_ROUTE = "tenant-members"
_USER_ID_MAX_LENGTH = 255
_LIST_PATH = "/tenants/{tenant_id}/members"
# Ids of people come from their identity providers and may hold a slash.
_PATH = "/tenants/{tenant_id}/members/{user_id:path}"


class PeopleHandlers:
    """Handlers of `/tenants/{tenant_id}/members`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """Return the operations."""
        tags = ("people",)
        return [
            Operation(
                "GET",
                _LIST_PATH,
                self.list_members,
                "List a tenant's people",
                Permission.MEMBERS_READ,
                query=PageQuery,
                reply=MemberList,
                tags=tags,
            ),
            Operation(
                "POST",
                _LIST_PATH,
                self.add_member,
                "Add a person to a tenant",
                Permission.MEMBERS_WRITE,
                body=AddMember,
                reply=MemberView,
                status=201,
                errors=(ErrorCode.ALREADY_EXISTS, ErrorCode.NOT_FOUND),
                tags=tags,
            ),
            Operation(
                "GET",
                _PATH,
                self.get_member,
                "Read a person's membership",
                Permission.MEMBERS_READ,
                reply=MemberView,
                errors=(ErrorCode.NOT_FOUND,),
                tags=tags,
            ),
            Operation(
                "PUT",
                _PATH,
                self.update_member,
                "Change a person's role",
                Permission.MEMBERS_WRITE,
                body=UpdateMember,
                reply=MemberView,
                errors=(ErrorCode.NOT_FOUND, ErrorCode.FAILED_PRECONDITION),
                tags=tags,
            ),
            Operation(
                "DELETE",
                _PATH,
                self.remove_member,
                "Remove a person from a tenant, or leave it",
                Permission.TENANT_READ,
                description="Anyone may leave; removing others takes the permission members:write.",
                errors=(ErrorCode.NOT_FOUND, ErrorCode.FAILED_PRECONDITION),
                tags=tags,
            ),
        ]

    async def list_members(self, call: Call) -> MemberList:
        """Return one page of the tenant's people."""
        services = self._services
        members, more = await services.store.members.list_page(
            call.tenant_id,
            call.query.limit,
            services.position(call.query.next_token, call.tenant_id, LIST_ROUTE),
        )
        last = members[-1].user_id if members else ""
        return MemberList(
            members=[_view(member) for member in members],
            next_token=services.next_token(last, more, call.tenant_id, LIST_ROUTE),
        )

    async def get_member(self, call: Call) -> MemberView:
        """Return a person's membership."""
        return _view(await self._member(call))

    async def add_member(self, call: Call) -> MemberView:
        """Add a person."""
        services, body = self._services, call.body
        check_may_set(call.scope, None, body.role)
        now = services.now()
        member = Member(
            tenant_id=call.tenant_id,
            user_id=check_user_id(body.user_id),
            role=body.role,
            email=body.email,
            created_at=now,
            updated_at=now,
        )
        await services.store.members.add(member)
        await services.changes.tell(call.tenant_id, "member", member.user_id, "created")
        return _view(member)

    async def update_member(self, call: Call) -> MemberView:
        """Change a person's role or address."""
        services = self._services
        old = await self._member(call)
        given = given_fields(call.body)
        role = given.get("role", old.role)
        check_may_set(call.scope, old.role, role)
        member = await services.store.members.change(old, role, given.get("email", old.email), services.now())
        await services.changes.tell(call.tenant_id, "member", member.user_id, "updated")
        return _view(member)

    async def remove_member(self, call: Call) -> None:
        """Remove a person."""
        services = self._services
        if call.path["user_id"] != call.person.user_id:
            call.scope.require(Permission.MEMBERS_WRITE)
        old = await self._member(call)
        if old.user_id != call.person.user_id:
            check_may_set(call.scope, old.role, None)
        await services.store.members.remove(old)
        await services.changes.tell(call.tenant_id, "member", old.user_id, "deleted")

    async def _member(self, call: Call) -> Member:
        user_id = call.path["user_id"]
        if not 0 < len(user_id) <= _USER_ID_MAX_LENGTH:
            raise invalid("user_id is not a valid id")
        member = await self._services.store.members.get(call.tenant_id, user_id)
        if member is None:
            raise not_found("member")
        return member


def _view(member: Member) -> MemberView:
    return MemberView(
        tenant_id=member.tenant_id,
        user_id=member.user_id,
        role=member.role,
        email=member.email,
        created_at=member.created_at,
        updated_at=member.updated_at,
    )
