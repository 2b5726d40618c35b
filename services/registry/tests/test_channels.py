"""Channel ids from names, and what is not offered yet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.ids import is_channel_id
from artcafe_registry.domain.channels import check_delivery, slug


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Team Updates", "team-updates"),
        ("team.updates", "team.updates"),
        ("Team . Updates!", "team.updates"),
        ("  --Café--  ", "cafe"),
        ("snake_case stays", "snake_case-stays"),
        ("..a..b..", "a.b"),
        ("Ⅷ ﬁne", "viii-fine"),
        ("tenant.*.>", "tenant"),
        ("日本", ""),
        ("!!!", ""),
        ("", ""),
        ("x" * 200, "x" * 64),
    ],
)
def test_name_gives_its_id(name: str, expected: str) -> None:
    """Words are joined, dots kept, accents taken off, all else left out."""
    assert slug(name) == expected


@given(st.text(max_size=400))
def test_id_from_any_name_is_empty_or_valid(name: str) -> None:
    """Whatever the name, the id fits the grammar, and is its own slug."""
    made = slug(name)
    assert made == "" or is_channel_id(made)
    assert slug(made) == made


@given(st.lists(st.text("ab.- ", min_size=1, max_size=70), max_size=6).map(".".join))
def test_long_names_are_cut_to_valid_ids(name: str) -> None:
    """Cutting at the bounds leaves no dangling separator."""
    made = slug(name)
    assert made == "" or is_channel_id(made)


def test_durable_delivery_and_retention_are_refused() -> None:
    """Asking for what is not offered is a failed precondition; asking for what is, passes."""
    check_delivery(None, None)
    check_delivery("live", None)
    for delivery, retention in (("durable", None), ("live", object()), (None, object())):
        with pytest.raises(ServiceError) as refused:
            check_delivery(delivery, retention)
        assert refused.value.code == ErrorCode.FAILED_PRECONDITION
