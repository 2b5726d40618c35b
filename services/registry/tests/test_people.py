"""Who may change whom."""

import pytest

from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.roles import Role, permissions_of
from artcafe_common.tokens import Person, TenantScope
from artcafe_registry.domain.people import check_may_set, check_user_id, person_name

ME = Person("me", "", 0.0)


def _scope(role: str, *platform_roles: str) -> TenantScope:
    return TenantScope(ME, "t", role, permissions_of(role, platform_roles))


def _allowed(scope: TenantScope, current: str | None, wanted: str | None) -> bool:
    try:
        check_may_set(scope, current, wanted)
    except ServiceError as error:
        assert error.code == ErrorCode.PERMISSION_DENIED
        return False
    return True


@pytest.mark.parametrize("current", [None, *Role])
@pytest.mark.parametrize("wanted", [None, *Role])
def test_owners_are_the_business_of_owners(current: str | None, wanted: str | None) -> None:
    """Owners and platform administrators change anybody; an admin everybody but owners."""
    assert _allowed(_scope("owner"), current, wanted)
    assert _allowed(_scope("admin", "platform_admin"), current, wanted)
    assert _allowed(_scope("none", "platform_admin"), current, wanted)
    assert _allowed(_scope("admin"), current, wanted) == ("owner" not in (current, wanted))
    assert _allowed(_scope("admin", "billing"), current, wanted) == ("owner" not in (current, wanted))


def test_persons_name_is_no_agents() -> None:
    """A sender that is a person cannot be an agent: the grammar of agents' ids has no colon."""
    assert person_name(ME) == "user:me"


@pytest.mark.parametrize("user_id", [".", "..", "a\x00", "\n", "\u202e"])
def test_what_is_no_part_of_an_address_is_nobodys_id(user_id: str) -> None:
    """Following it leads elsewhere, and what is not printable no token may say."""
    with pytest.raises(ServiceError) as refused:
        check_user_id(user_id)
    assert refused.value.code == ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize("user_id", ["...", ".a", "a/..", "ü n", "auth0|x"])
def test_other_ids_are_taken_as_they_are(user_id: str) -> None:
    """Ids of people come from their identity providers."""
    assert check_user_id(user_id) == user_id
