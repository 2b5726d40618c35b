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


class GetMonths(msgspec.Struct, frozen=True, kw_only=True):
    """Ask how many messages some tenants had in a calendar month, UTC (``YYYY-MM``)."""

    month: str
    tenant_ids: list[str]


class Months(msgspec.Struct, frozen=True, kw_only=True):
    """The messages of tenants in a month, by tenant."""

    month: str
    messages: dict[str, int]


USAGE_BATCH = Event("usage.v1.batch.{source}", UsageBatch)
GET_MONTHS = Endpoint("metering.v1.months.get", GetMonths, Months)
