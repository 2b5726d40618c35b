"""Settings of the gateway."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from artcafe_common.config import SharedConfig, describe

PREFIX = "GATEWAY_"


class GatewayConfig(SharedConfig, frozen=True, kw_only=True):
    """Settings with the prefix ``GATEWAY_``; times are in seconds."""

    http_host: Annotated[str, describe("Address of the HTTP listener")] = "127.0.0.1"
    http_port: Annotated[int, Meta(ge=0, le=65535), describe("Port of the HTTP listener")] = 8104
    ws_host: Annotated[str, describe("Address of the WebSocket listener")] = "127.0.0.1"
    ws_port: Annotated[int, Meta(ge=0, le=65535), describe("Port of the WebSocket listener")] = 8105
    workers: Annotated[
        int, Meta(ge=1, le=64), describe("Processes that share the two ports; one uses one processor core")
    ] = 1
    max_message_bytes: Annotated[
        int, Meta(ge=1024, le=1024 * 1024), describe("Largest frame that a client may send")
    ] = 65_536
    max_connections: Annotated[
        int, Meta(ge=1), describe("Sockets in one process; more are refused with HTTP 503")
    ] = 20_000
    max_dashboards_per_person: Annotated[
        int, Meta(ge=1), describe("Of these, dashboards of one person in one organisation")
    ] = 100
    max_dashboards_per_tenant: Annotated[
        int, Meta(ge=1), describe("Of these, dashboards of one organisation")
    ] = 1000
    outbox_bytes: Annotated[
        int, Meta(ge=65_536), describe("What may wait for one socket that does not keep up")
    ] = 1024 * 1024
    auth_timeout: Annotated[
        float, Meta(gt=0, le=60), describe("Time that a new socket has to prove itself")
    ] = 5.0
    heartbeat_interval: Annotated[
        float, Meta(gt=0), describe("How often agents are asked to send a heartbeat")
    ] = 30.0
    heartbeat_timeout: Annotated[
        float, Meta(gt=0), describe("An agent without a sign of life for this long is offline")
    ] = 90.0
    ping_interval: Annotated[float, Meta(gt=0), describe("How often the server pings a socket")] = 25.0
    ping_timeout: Annotated[
        float, Meta(gt=0), describe("A socket that does not answer a ping for this long is closed")
    ] = 20.0
    lease_timeout: Annotated[
        float, Meta(gt=0), describe("A gateway that did not renew its lease for this long is dead")
    ] = 45.0
    sweep_interval: Annotated[
        float, Meta(gt=0), describe("How often connections of dead gateways are looked for")
    ] = 20.0
    drain_seconds: Annotated[
        float,
        Meta(ge=0),
        describe("Over how long sockets are closed at a stop, so that they come back spread"),
    ] = 5.0
    preview_rate: Annotated[
        float, Meta(gt=0), describe("Messages per second that one topic preview is shown")
    ] = 50.0
    preview_burst: Annotated[float, Meta(ge=1), describe("Messages that one preview is shown at once")] = (
        100.0
    )
    preview_tenant_rate: Annotated[
        float,
        Meta(gt=0),
        describe("Messages per second that all previews of a tenant in one process are shown"),
    ] = 500.0
    preview_data_bytes: Annotated[
        int, Meta(ge=0, le=1024 * 1024), describe("How much of a message's data a preview shows")
    ] = 8192
    preview_share: Annotated[
        float,
        Meta(gt=0, le=1),
        describe("Part of a process's time that previews may take before they give way"),
    ] = 0.1
    preview_late: Annotated[
        float, Meta(gt=0), describe("Previews give way while the process is this late with everything")
    ] = 0.25
    public_url: Annotated[str | None, describe("Address of the platform as clients see it")] = None
