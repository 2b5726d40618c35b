"""One value of every contract type, as full as it can be, and one as empty as it can be.

Their bytes are the lines of `golden.txt`, in this order. A new type gets values here and lines there; a line
is changed only to add a field, and then its former self stays below as ``old``.
"""

from __future__ import annotations

import msgspec

from artcafe_common.contracts.auth import (
    GetJwks,
    IssuerKeys,
    Jwks,
    Revoked,
    VerifiedAgent,
    VerifyAgent,
)
from artcafe_common.contracts.gateway import GetSessions, OpenSession, OpenSessions, Presence, Replaced
from artcafe_common.contracts.metering import GetMonths, Months, UsageBatch, UsageRow
from artcafe_common.contracts.platform import Dependency, GetHealth, Health
from artcafe_common.contracts.registry import (
    AgentInfo,
    AgentKey,
    AgentStatus,
    AgentStatusPage,
    Changed,
    ChannelInfo,
    GetAgent,
    GetGrants,
    GetMemberships,
    GetTenant,
    Grant,
    Grants,
    Limits,
    ListAgentStatus,
    Membership,
    Memberships,
    ResolveChannel,
    TenantInfo,
)
from artcafe_common.errors import ErrorBody, Quota

_KEY = AgentKey(fingerprint="SHA256:x", public_key="ssh-ed25519 AAAA")
_LIMITS = Limits(
    agents=3,
    channels=10,
    connections=5,
    messages_per_month=10_000,
    messages_per_second=10,
    bytes_per_message=65_536,
    api_calls_per_minute=100,
)
_ISSUER = IssuerKeys(
    issuer="https://i",
    keys=[{"kid": "1", "kty": "OKP", "key_ops": ["verify"], "ext": True}],
    audiences=["artcafe"],
    algorithms=["EdDSA"],
    token_uses=["id"],
    tenant_claims=True,
    sign_in_urls=["https://i/login"],
    user_prefix="acme:",
    foreign_prefixes=["b:"],
    tenants=["t1"],
)
_STATUS = AgentStatus(
    agent_id="a1",
    name="A",
    status="online",
    last_seen="2026-01-01T00:00:00.000Z",
    connected_at="2026-01-01T00:00:00.000Z",
    reason="alive",
    capabilities=["chat"],
    metadata={"k": [1]},
)
_DEPENDENCY = Dependency(name="nats", status="down", required=False, detail="TimeoutError")
_QUOTA = Quota("agents", 3, 3, "free")
_SESSION = OpenSession(
    agent_id="a1", last_seen="2026-01-01T00:00:00.000Z", subscribed=["c.*"], published=["d"]
)

VALUES: list[msgspec.Struct] = [
    VerifyAgent(
        agent_id="a1", tenant_id="t1", challenge="c", signature="s", ticket="k", remote_address="::1"
    ),
    VerifyAgent(agent_id="a1"),
    VerifiedAgent(tenant_id="t1", agent_id="a1", fingerprint="SHA256:x"),
    GetJwks(),
    _ISSUER,
    IssuerKeys(issuer="https://i", keys=[], audiences=[], algorithms=[]),
    Jwks(issuers=[_ISSUER]),
    Revoked(tenant_id="t1", reason="key_revoked", agent_id="a1", fingerprint="SHA256:x"),
    Revoked(tenant_id="t1", reason="tenant_suspended"),
    _LIMITS,
    Limits(),
    TenantInfo(
        tenant_id="t1", name="T", status="active", plan="free", limits=_LIMITS, auto_create_channels=True
    ),
    GetTenant("t1"),
    _KEY,
    AgentInfo(tenant_id="t1", agent_id="a1", name="A", tenant_status="suspended", keys=[_KEY]),
    GetAgent("t1", "a1"),
    Grant(channel_id="c", role="both", auto_subscribe=True),
    GetGrants("t1", "a1"),
    Grants([Grant(channel_id="c", role="publisher")]),
    ChannelInfo(channel_id="c", name="C", access="members", delivery="live"),
    ResolveChannel(tenant_id="t1", channel_id="c", create_for="a1"),
    ResolveChannel(tenant_id="t1", channel_id="c"),
    GetMemberships("p1", "t1"),
    GetMemberships("p1"),
    Membership(tenant_id="t1", role="owner", tenant_status="suspended"),
    Memberships(
        user_id="p1",
        memberships=[Membership(tenant_id="t1", role="owner")],
        platform_roles=["billing"],
        claimed_status="active",
    ),
    ListAgentStatus(tenant_id="t1", next_token="n"),
    ListAgentStatus(tenant_id="t1"),
    _STATUS,
    AgentStatus(agent_id="a1", name="A", status="offline"),
    AgentStatusPage(agents=[_STATUS], next_token="n"),
    AgentStatusPage(agents=[]),
    Changed(tenant_id="t1", kind="agent", id="a1", action="updated"),
    Presence(
        tenant_id="t1",
        agent_id="a1",
        status="suspect",
        version=7,
        at="2026-01-01T00:00:00.000Z",
        connection_id="c1",
        server_id="s1",
        reason="heartbeat late",
        detail="d",
        connected_at="2026-01-01T00:00:00.000Z",
        capabilities=["chat"],
        metadata={"k": 1},
    ),
    Presence(
        tenant_id="t1",
        agent_id="a1",
        status="online",
        version=1,
        at="2026-01-01T00:00:00.000Z",
        connection_id="c1",
        server_id="s1",
    ),
    Replaced(tenant_id="t1", agent_id="a1", connection_id="c1"),
    GetSessions(tenant_id="t1", agent_ids=["a1"]),
    GetSessions(tenant_id="t1", channel_id="c"),
    _SESSION,
    OpenSession(agent_id="a1", last_seen="2026-01-01T00:00:00.000Z"),
    OpenSessions(sessions=[_SESSION], more=True),
    UsageRow("t1", "a1", "c", 1, 2, 3, 4, 5, 6.5),
    UsageRow("t1"),
    UsageBatch(source="s", seq=1, start=1.0, end=2.0, rows=[UsageRow("t1", "a1", "c", 1, 2, 3, 4, 5, 6.5)]),
    GetMonths(month="2026-01", tenant_ids=["t1", "t2"]),
    Months(month="2026-01", messages={"t1": 7, "t2": 0}),
    GetHealth(),
    _DEPENDENCY,
    Dependency(name="nats", status="up"),
    Health(service="auth", server_id="s1", version="0.1.0", status="draining", dependencies=[_DEPENDENCY]),
    _QUOTA,
    ErrorBody("resource_exhausted", "full", 1.5, _QUOTA),
    ErrorBody("not_found", "agent not found"),
]
