"""What publishers of usage tell metering."""

from __future__ import annotations

import msgspec

from artcafe_common.contracts.endpoint import Endpoint, Event


class UsageRow(msgspec.Struct, frozen=True, array_like=True):
    """What was counted for one tenant, agent and channel; an empty agent or channel means none.

    ``bytes_in`` and ``bytes_out`` are UTF-8 bytes of ``data``. On the wire it is an array, in this order;
    new fields go to the end.
    """

    tenant_id: str
    agent_id: str = ""
    channel_id: str = ""
    messages: int = 0
    deliveries: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    api_calls: int = 0
    connection_seconds: float = 0.0


class UsageBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What one process counted in a span of time (epoch seconds); all rows belong to the hour of ``start``.

    ``source`` is new at each start of a process, ``seq`` counts from 1: together they name the batch for
    ever, so that applying it twice can be told apart from applying two.
    """

    source: str
    seq: int
    start: float
    end: float
    rows: list[UsageRow]


class GetMonth(msgspec.Struct, frozen=True):
    """Ask how much of its monthly allowance a tenant has used."""

    tenant_id: str


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's messages in the running calendar month, UTC (``YYYY-MM``)."""

    tenant_id: str
    month: str
    messages: int


USAGE_BATCH = Event("usage.v1.batch.{source}", UsageBatch)
GET_MONTH = Endpoint("metering.v1.month.get", GetMonth, Month)
