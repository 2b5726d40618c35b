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
BUS_UP = Gauge("artcafe_bus_up", "1 while the connection to NATS is up")
BUS_DROPPED = Counter(
    "artcafe_bus_dropped_messages_total", "Messages dropped because a subscription of ours did not keep up"
)
USAGE_BATCHES = Counter("artcafe_usage_batches_total", "Usage batches by what became of them", ["outcome"])
USAGE_PENDING = Gauge("artcafe_usage_pending_batches", "Usage batches that wait for an acknowledgement")
STORE_ERRORS = Counter("artcafe_store_errors_total", "Calls to DynamoDB that failed", ["kind"])


def render() -> tuple[bytes, str]:
    """Return all metrics of this process and their content type."""
    return generate_latest(), CONTENT_TYPE_LATEST
