"""The registry's tables and their keys.

======================= ====================== ===========================================================
table                   keys (hash, range)     rows
======================= ====================== ===========================================================
``tenants``             tenant_id              one per tenant, with the counters that its limits are held to;
                                               of a deleted one what keeps its id from being used again
``tenant-members``      tenant_id, user_id     ``T, U``: person U in tenant T
                                               ``#person#U, T``: the same membership, found by the person
                                               ``#person#U, #platform``: U's roles on the whole platform
                                               ``#person#U, #created``: of the tenants that U made by
                                               self-service, how many there are, and how many were
                                               made in each month
``agents``              tenant_id, agent_id    one per agent, with its keys and its presence
``channels``            tenant_id, channel_id  one per channel
``channel-subscriptions``  tenant_id, channel_agent  ``T, C#A``: agent A's member row in channel C
                                               ``T, @A#C``: the same row, found by the agent
``idempotency``         tenant_id, request     the result of a request with an ``Idempotency-Key``, for a day
``pending-work``        work_id                what was begun and must be finished: deletions, revocations,
                                               telling of updates
======================= ====================== ===========================================================

``#`` and ``@`` stand in no id, so the kinds of rows cannot be mistaken for each other. Memberships and
member rows are written twice, in one transaction, and not found through an index: an index of DynamoDB
lags behind its table, and whoever was just removed would still be let in.
"""

from __future__ import annotations

from artcafe_common.dynamo import Dynamo, Table, TableSpec

TENANTS = TableSpec("tenants", "tenant_id")
MEMBERS = TableSpec("tenant-members", "tenant_id", "user_id")
AGENTS = TableSpec("agents", "tenant_id", "agent_id")
CHANNELS = TableSpec("channels", "tenant_id", "channel_id")
GRANTS = TableSpec("channel-subscriptions", "tenant_id", "channel_agent")
REPLAYS = TableSpec("idempotency", "tenant_id", "request", ttl="expires_at", recovery=False)
PENDING = TableSpec("pending-work", "work_id")

TABLES = (TENANTS, MEMBERS, AGENTS, CHANNELS, GRANTS, REPLAYS, PENDING)

PLATFORM_ROW = "#platform"
CREATED_ROW = "#created"


class Tables:
    """Handles of all tables."""

    def __init__(self, dynamo: Dynamo) -> None:
        self.dynamo = dynamo
        self.tenants: Table = dynamo.table(TENANTS)
        self.members: Table = dynamo.table(MEMBERS)
        self.agents: Table = dynamo.table(AGENTS)
        self.channels: Table = dynamo.table(CHANNELS)
        self.grants: Table = dynamo.table(GRANTS)
        self.replays: Table = dynamo.table(REPLAYS)
        self.pending: Table = dynamo.table(PENDING)


def person_hash(user_id: str) -> str:
    """Return the hash key under which everything about a person is found."""
    return f"#person#{user_id}"
