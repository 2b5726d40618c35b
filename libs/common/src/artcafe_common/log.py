"""Logging: one JSON object per line, constant event names, variables as fields.

``logger.info("session_closed", extra={"tenant_id": ..., "code": ...})``. INFO is the life of processes and
sessions, never a message. No private key, token, ticket, signature or payload is ever given to a logger.
"""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import Any

import msgspec

from artcafe_common.clock import rfc3339

request_id_var: ContextVar[str] = ContextVar("request_id", default="")

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
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
        return _encoder.encode(line).decode()


def setup_logging(service: str, server_id: str, level: str = "INFO") -> None:
    """Send all logging of this process to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service, server_id))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("botocore", "aiobotocore", "aioboto3", "boto3", "urllib3", "hypercorn.access", "picows"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # nats-py logs what its error callback reports already.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
