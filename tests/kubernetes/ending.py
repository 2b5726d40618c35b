"""How long a service may take to end, from the code's own constants: grace periods are longer."""

from __future__ import annotations

import inspect

from artcafe_common.bus import Bus
from artcafe_common.http import server as http_server
from artcafe_gateway import gateway, worker
from artcafe_metering import __main__ as metering
from artcafe_metering import intake
from artcafe_registry import process


def ending_seconds(service: str, drain_seconds: float) -> float:
    """Return how long a service may take from SIGTERM; a gateway closes its sockets over `drain_seconds`."""
    close: float = inspect.signature(Bus.close_gracefully).parameters["timeout"].default
    # Requests in flight, and as long again where a client does not read; NATS is flushed, then closed.
    seconds = 2.0 * http_server.GRACE_SECONDS + 2.0 * close
    if service == "gateway-ws":
        seconds += drain_seconds + gateway.GOODBYE_SECONDS
        seconds += worker.FINISH_SECONDS + worker.USAGE_FLUSH_SECONDS
    elif service == "registry":
        seconds += process.USAGE_FINISH_SECONDS
    elif service == "metering":
        seconds += intake.FINISH_SECONDS + metering.LAST_BATCH_SECONDS
    return seconds
