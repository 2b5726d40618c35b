"""Logging: one JSON object per line, constant event names, variables as fields.

``logger.info("session_closed", extra={"tenant_id": ..., "code": ...})``. INFO is the life of processes and
sessions, never a message. No private key, token, ticket, signature or payload is ever given to a logger.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from typing import Any

import msgspec

from artcafe_common.clock import Clock, SystemClock, rfc3339

request_id_var: ContextVar[str] = ContextVar("request_id", default="")

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_REPEATS_MAX = 1_000
_encoder = msgspec.json.Encoder(enc_hook=str)


class JsonFormatter(logging.Formatter):
    """Render a record as one line of JSON."""

    def __init__(self, service: str, server_id: str) -> None:
        super().__init__()
        self._fixed = {"service": service, "server_id": server_id}

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, its ``extra`` fields beside the fixed ones."""
        line: dict[str, Any] = {
            "time": rfc3339(record.created),
            "level": record.levelname,
            "event": record.getMessage(),
            "logger": record.name,
            **self._fixed,
        }
        if request_id := request_id_var.get():
            line["request_id"] = request_id
        for name, value in record.__dict__.items():
            if name not in _STANDARD:
                line[name] = value
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        try:
            return _encoder.encode(line).decode()
        except Exception:
            # A field that JSON cannot hold must not cost the line.
            return json.dumps({name: str(value) for name, value in line.items()})


class Repeats:
    """Keeps an event that repeats itself from flooding the log: it is due at most once in a pause."""

    def __init__(self, pause_seconds: float = 10.0, clock: Clock | None = None) -> None:
        self._pause = pause_seconds
        self._clock = clock or SystemClock()
        self._held_back: dict[str, int] = {}
        self._logged_at: dict[str, float] = {}

    def due(self, key: str) -> int | None:
        """Return how often the event was held back since it was last due, or None where it is not due yet."""
        now = self._clock.monotonic()
        if key in self._logged_at and now - self._logged_at[key] < self._pause:
            self._held_back[key] = self._held_back.get(key, 0) + 1
            return None
        if len(self._logged_at) >= _REPEATS_MAX:
            self._logged_at.clear()
            self._held_back.clear()
        self._logged_at[key] = now
        return self._held_back.pop(key, 0)


def setup_logging(service: str, server_id: str, level: str = "INFO") -> None:
    """Send all logging of this process to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service, server_id))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("botocore", "aiobotocore", "aioboto3", "boto3", "urllib3", "hypercorn.access", "picows"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # nats-py logs what its error callback reports already.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
