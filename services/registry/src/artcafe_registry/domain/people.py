"""Who may change whom among the people of a tenant."""

from __future__ import annotations

from artcafe_common.errors import ErrorCode, ServiceError, invalid, permission_denied
from artcafe_common.roles import Permission, Role
from artcafe_common.tokens import Person, TenantScope

# Self-service: how many tenants of a person's making there may be, and how many they may make in a calendar
# month (UTC). Each begins with a month's messages of its own, so making and deleting them must have an end.
OWNED_TENANTS_MAX = 3
MONTHLY_TENANTS_MAX = 6


def person_name(person: Person) -> str:
    """Return a person's name beside agents: no agent's id holds a colon, so nobody is mistaken."""
    return f"user:{person.user_id}"


def check_user_id(user_id: str) -> str:
    """Return the id of a person who is to belong somewhere. Raises: ServiceError ``invalid_argument``.

    One of dots alone is no part of an address: whoever follows the links of such a member is led to the
    organisation itself, and deletes that where the member was meant. What is not printable is nobody's.
    """
    if user_id in (".", "..") or not user_id.isprintable():
        raise invalid("user_id is not the id of a person")
    return user_id


def check_may_set(scope: TenantScope, current: str | None, wanted: str | None) -> None:
    """Raise unless the caller may turn a member's role into another; None is no member at all.

    Owners are made, changed and removed by owners and by the platform's administrators only.
    """
    touches_owner = Role.OWNER in (current, wanted)
    above = scope.role == Role.OWNER or Permission.TENANTS_ADMIN in scope.permissions
    if touches_owner and not above:
        raise permission_denied("only an owner can make, change or remove an owner")


def last_owner() -> ServiceError:
    """Return the error for a change that would leave a tenant without an owner."""
    return ServiceError(
        ErrorCode.FAILED_PRECONDITION, "this is the last owner: make somebody else an owner first"
    )
