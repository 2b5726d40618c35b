"""The grammar of ids, and new ids.

Every id is checked against its grammar before it becomes part of a NATS subject or of a key in a
store, so that no client can smuggle in a wildcard, a separator or another tenant's name.
"""

from __future__ import annotations

import os
import re
import time

from artcafe_common.errors import ErrorCode, ServiceError

CHANNEL_ID_MAX_LENGTH = 128
PATTERN_MAX_LENGTH = 256

_TOKEN = r"[A-Za-z0-9_-]{1,64}"
_TOKEN_RE = re.compile(_TOKEN)
_CHANNEL_RE = re.compile(rf"{_TOKEN}(?:\.{_TOKEN})*")
_PATTERN_RE = re.compile(rf"(?:{_TOKEN}|\*)(?:\.(?:{_TOKEN}|\*))*(?:\.>)?|>")

# Crockford's base 32, as the ULID specification asks for.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]


def is_token(value: str) -> bool:
    """Tell whether a string is a tenant id or an agent id."""
    return _TOKEN_RE.fullmatch(value) is not None


def is_channel_id(value: str) -> bool:
    """Tell whether a string is a channel id: tokens joined by dots, no wildcard."""
    return len(value) <= CHANNEL_ID_MAX_LENGTH and _CHANNEL_RE.fullmatch(value) is not None


def is_pattern(value: str) -> bool:
    """Tell whether a string is a subscription pattern: a channel id, with ``*`` or a last ``>`` in it."""
    return len(value) <= PATTERN_MAX_LENGTH and _PATTERN_RE.fullmatch(value) is not None


def has_wildcard(pattern: str) -> bool:
    """Tell whether a valid pattern stands for more than one channel."""
    return "*" in pattern or ">" in pattern


def check_tenant_id(value: str) -> str:
    """Return a tenant id, or raise `ServiceError` ``invalid_argument``."""
    return _checked(is_token(value), value, "tenant_id")


def check_agent_id(value: str) -> str:
    """Return an agent id, or raise `ServiceError` ``invalid_argument``."""
    return _checked(is_token(value), value, "agent_id")


def check_channel_id(value: str) -> str:
    """Return a channel id, or raise `ServiceError` ``invalid_argument``."""
    return _checked(is_channel_id(value), value, "channel_id")


def check_pattern(value: str) -> str:
    """Return a channel id or pattern, or raise `ServiceError` ``invalid_argument``."""
    return _checked(is_pattern(value), value, "channel")


def pattern_matches(pattern: str, channel_id: str) -> bool:
    """Tell whether a channel id lies under a pattern, comparing whole tokens as NATS does."""
    wanted = pattern.split(".")
    given = channel_id.split(".")
    for position, token in enumerate(wanted):
        if token == ">":
            return len(given) > position
        if position >= len(given) or (token != "*" and token != given[position]):
            return False
    return len(wanted) == len(given)


def new_ulid(now: float | None = None) -> str:
    """Return a ULID: 26 characters that sort by time (milliseconds), then 80 random bits."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    number = milliseconds << 80 | int.from_bytes(os.urandom(10))
    # 130 bits in thirteen pairs of digits: half the look-ups of digit by digit.
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def _checked(valid: bool, value: str, field: str) -> str:
    if not valid:
        raise ServiceError(ErrorCode.INVALID_ARGUMENT, f"{field} is not a valid id")
    return value
