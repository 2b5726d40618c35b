"""Metrics of the gateway. No label holds an id."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

CONNECTIONS = Gauge("artcafe_gateway_connections", "Open sockets by kind", ["kind"])
HANDSHAKES = Counter("artcafe_gateway_handshakes_total", "Sockets that asked to come in", ["kind", "outcome"])
CLOSES = Counter("artcafe_gateway_closes_total", "Sockets that ended, by close code", ["code"])
MESSAGES = Counter("artcafe_gateway_messages_total", "Accepted publishes")
DELIVERIES = Counter("artcafe_gateway_deliveries_total", "Copies handed to agents' sockets")
DROPPED = Counter("artcafe_gateway_dropped_total", "Copies that a slow consumer's policy dropped")
PREVIEW_DROPPED = Counter("artcafe_gateway_preview_dropped_total", "Messages left out of topic previews")
SUBSCRIPTIONS = Gauge("artcafe_gateway_subscriptions", "Subjects subscribed to at NATS")
COMMAND_ERRORS = Counter("artcafe_gateway_command_errors_total", "Commands answered with an error", ["code"])
SWEPT = Counter("artcafe_gateway_swept_total", "Connections of dead gateways that were cleared")
