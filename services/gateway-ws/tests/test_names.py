"""How names become channel ids."""

from __future__ import annotations

import pytest

from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_gateway.names import channel_named, pattern_named


@pytest.mark.parametrize("name", ["room", "team.updates", "a-b_C.9", "x" * 64])
def test_a_name_and_its_full_subject_are_the_same_channel(name: str) -> None:
    """Publishing and subscribing meet whatever form a client uses."""
    assert channel_named(name, "t1") == name
    assert channel_named(f"tenant.t1.channel.{name}", "t1") == name
    assert pattern_named(f"tenant.t1.channel.{name}", "t1") == name


@pytest.mark.parametrize("name", ["*", ">", "a.*", "a.>", "tenant.t1.channel.>"])
def test_a_wildcard_is_a_pattern_but_no_channel(name: str) -> None:
    """Only a subscription may have wildcards."""
    assert pattern_named(name, "t1") == name.removeprefix("tenant.t1.channel.")
    with pytest.raises(ServiceError) as caught:
        channel_named(name, "t1")
    assert caught.value.code == ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "name",
    ["tenant.t2.channel.room", "tenant.t10.channel.room", "tenant.t.channel.room", "tenant.t1.>", "tenant.x"],
)
def test_a_subject_of_another_tenant_is_refused(name: str) -> None:
    """Whole tokens are compared: neither t10 nor t is t1."""
    with pytest.raises(ServiceError) as caught:
        pattern_named(name, "t1")
    assert caught.value.code == ErrorCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a b",
        "a\n",
        "a%2Eb",
        "ä",
        "a>",
        "a.>.b",
        "**",
        "x" * 65,
        ".".join(["xxx"] * 33),
        "tenant.t1.channel.",
        "a\0",
    ],
)
def test_a_malformed_name_is_refused(name: str) -> None:
    """What is not in the grammar never becomes part of a subject."""
    with pytest.raises(ServiceError) as caught:
        channel_named(name, "t1")
    assert caught.value.code == ErrorCode.INVALID_ARGUMENT
