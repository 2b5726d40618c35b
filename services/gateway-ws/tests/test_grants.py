"""Who may read and write what."""

from __future__ import annotations

import pytest

from artcafe_common.contracts.registry import ChannelAccess, ChannelInfo, Grant, MemberRole
from artcafe_gateway.grants import may_publish, may_subscribe


@pytest.mark.parametrize(
    ("access", "role", "subscribes", "publishes"),
    [
        ("open", None, True, True),
        ("open", "subscriber", True, False),
        ("open", "publisher", False, True),
        ("open", "both", True, True),
        ("members", None, False, False),
        ("members", "subscriber", True, False),
        ("members", "publisher", False, True),
        ("members", "both", True, True),
    ],
)
def test_the_row_decides_and_without_one_the_channel(
    access: ChannelAccess, role: MemberRole | None, subscribes: bool, publishes: bool
) -> None:
    """An open channel lets in everybody without a row; a channel for members only those with one."""
    channel = ChannelInfo(channel_id="c", name="c", access=access, delivery="live")
    grants = {"other": Grant(channel_id="other", role="both")}
    if role is not None:
        grants["c"] = Grant(channel_id="c", role=role)
    assert may_subscribe(channel, grants) is subscribes
    assert may_publish(channel, grants) is publishes
