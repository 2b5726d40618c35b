"""Metrics of the gateway. No label holds an id."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from artcafe_common.errors import CloseCode

CONNECTIONS = Gauge("artcafe_gateway_connections", "Open sockets by kind", ["kind"])
CONNECTIONS_MAX = Gauge(
    "artcafe_gateway_connections_max", "Sockets that this process takes at most, of all kinds together"
)
HANDSHAKES = Counter("artcafe_gateway_handshakes_total", "Sockets that asked to come in", ["kind", "outcome"])
CLOSES = Counter("artcafe_gateway_closes_total", "Sockets that ended, by close code", ["code"])
# There from the start: a series that appears has not increased, and may be a thousand agents' goodbyes.
for goodbye in (CloseCode.NORMAL, CloseCode.GOING_AWAY):
    CLOSES.labels(goodbye)
MESSAGES = Counter("artcafe_gateway_messages_total", "Accepted publishes")
DELIVERIES = Counter("artcafe_gateway_deliveries_total", "Copies handed to agents' sockets")
DROPPED = Counter("artcafe_gateway_dropped_total", "Copies that a slow consumer's policy dropped")
PREVIEWS = Gauge("artcafe_gateway_previews", "Topic previews that are open")
PREVIEW_TAPS = Gauge("artcafe_gateway_preview_taps", "Tenants whose traffic is watched")
PREVIEW_SHOWN = Counter("artcafe_gateway_preview_shown_total", "Messages shown in topic previews")
PREVIEW_DROPPED = Counter(
    "artcafe_gateway_preview_dropped_total", "Messages left out of topic previews", ["reason"]
)
PREVIEW_STATES = Counter(
    "artcafe_gateway_preview_states_total",
    "Changes of what topic previews are shown, by what they became",
    ["state"],
)
PREVIEW_TAP_SECONDS = Counter(
    "artcafe_gateway_preview_tap_seconds_total", "Time spent with what topic previews tap"
)
SUBSCRIPTIONS = Gauge("artcafe_gateway_subscriptions", "Subjects subscribed to at NATS")
COMMAND_ERRORS = Counter("artcafe_gateway_command_errors_total", "Commands answered with an error", ["code"])
SWEPT = Counter("artcafe_gateway_swept_total", "Connections of dead gateways that were cleared")
