"""Subjects of the data plane. Ids must have been checked before (`artcafe_common.ids`)."""

from __future__ import annotations


def channel_subject(tenant_id: str, channel_id: str) -> str:
    """Return the subject of a channel's live messages; a pattern in place of the id subscribes to many."""
    return f"tenant.{tenant_id}.channel.{channel_id}"


def channel_of(subject: str) -> tuple[str, str]:
    """Return (tenant_id, channel_id) of a data-plane subject."""
    _, tenant_id, _, channel_id = subject.split(".", 3)
    return tenant_id, channel_id


def tenant_tap(tenant_id: str) -> str:
    """Return the wildcard under which all of a tenant's live traffic is found."""
    return f"tenant.{tenant_id}.>"
