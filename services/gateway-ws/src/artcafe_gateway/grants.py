"""Who may read and write which channel.

On an open channel every agent of the tenant may do both, unless it has a member row: then the row decides.
On a channel for members only the row decides, and without one there is nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from artcafe_common.contracts.registry import ChannelInfo, Grant


def may_subscribe(channel: ChannelInfo, grants: Mapping[str, Grant]) -> bool:
    """Tell whether an agent with these member rows may receive a channel."""
    grant = grants.get(channel.channel_id)
    if grant is not None:
        return grant.role in ("subscriber", "both")
    return channel.access == "open"


def may_publish(channel: ChannelInfo, grants: Mapping[str, Grant]) -> bool:
    """Tell whether an agent with these member rows may publish to a channel."""
    grant = grants.get(channel.channel_id)
    if grant is not None:
        return grant.role in ("publisher", "both")
    return channel.access == "open"
