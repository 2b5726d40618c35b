"""Prometheus metrics that every service has; each service adds its own in its `metrics.py`.

No label holds an id of a tenant, an agent, a channel or a connection.
"""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

RPC_SECONDS = Histogram(
    "artcafe_rpc_seconds", "Time to answer a request over NATS", ["subject", "code"], unit="seconds"
)
HTTP_SECONDS = Histogram(
    "artcafe_http_seconds", "Time to answer an HTTP request", ["route", "method", "status"], unit="seconds"
)
HTTP_REFUSED = Counter("artcafe_http_refused_calls_total", "Calls over a tenant's or person's rate")
BUS_UP = Gauge("artcafe_bus_up", "1 while the connection to NATS is up")
DEPENDENCY_UP = Gauge(
    "artcafe_dependency_up", "1 where a dependency was there when readiness last asked", ["dependency"]
)
BUS_DROPPED = Counter(
    "artcafe_bus_dropped_messages_total", "Messages dropped because a subscription of ours did not keep up"
)
USAGE_BATCHES = Counter("artcafe_usage_batches_total", "Usage batches by what became of them", ["outcome"])
USAGE_PENDING = Gauge("artcafe_usage_pending_batches", "Usage batches that wait for an acknowledgement")
USAGE_FILL = Gauge("artcafe_usage_fill_ratio", "How much of the room for usage that was not sent is in use")
USAGE_LOST = Counter("artcafe_usage_lost_messages_total", "Messages that were not counted for want of room")
USAGE_DURABLE = Gauge("artcafe_usage_durable", "1 while what is counted would survive a kill of this process")
USAGE_LEFTOVERS = Counter(
    "artcafe_usage_leftovers_total", "Counter files of ended processes by what became of them", ["outcome"]
)
STORE_ERRORS = Counter("artcafe_store_errors_total", "Calls to DynamoDB that failed", ["kind"])


def render() -> tuple[bytes, str]:
    """Return all metrics of this process and their content type."""
    return generate_latest(), CONTENT_TYPE_LATEST
