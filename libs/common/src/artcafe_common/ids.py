"""The grammar of ids, and new ids.

Every id is checked against its grammar before it becomes part of a NATS subject or of a key in a
store, so that no client can smuggle in a wildcard, a separator or another tenant's name.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Sequence
from functools import lru_cache

from artcafe_common.errors import ErrorCode, ServiceError, permission_denied

CHANNEL_ID_MAX_LENGTH = 128
PATTERN_MAX_LENGTH = 256

# Built-in channels on which the platform tells of presence: nobody is billed for them.
PRESENCE_CHANNELS = "agents.presence."

_TOKEN = r"[A-Za-z0-9_-]{1,64}"
_TOKEN_RE = re.compile(_TOKEN)
_CHANNEL_RE = re.compile(rf"{_TOKEN}(?:\.{_TOKEN})*")
_PATTERN_RE = re.compile(rf"(?:{_TOKEN}|\*)(?:\.(?:{_TOKEN}|\*))*(?:\.>)?|>")

# In place of a process: who accepted the messages that were published over REST.
REST = "rest"

# Crockford's base 32, as the ULID specification asks for.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
# Where the pairs begin in 80 random bits; of these a message id has 30 that are its process's and 50 others.
_RANDOM_SHIFTS = range(70, -1, -10)
_TAG_SHIFTS = range(20, -1, -10)
_FIFTY_BITS = range(40, -1, -10)


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


def check_not_presence(channel_id: str) -> str:
    """Return the id of a channel whose messages are its members' own.

    Raises: ServiceError ``permission_denied`` for one on which the platform tells of presence: agents take
    what they read there for what the platform knows, so nobody else makes such a channel or publishes in it.
    """
    if channel_id.startswith(PRESENCE_CHANNELS):
        raise permission_denied("the platform itself tells of presence")
    return channel_id


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
    return tokens_match(pattern.split("."), channel_id.split("."))


def tokens_match(wanted: Sequence[str], given: Sequence[str]) -> bool:
    """Tell the same of the tokens of a pattern and of a channel id, for whoever has them already."""
    for position, token in enumerate(wanted):
        if token == ">":
            return len(given) > position
        if position >= len(given) or (token != "*" and token != given[position]):
            return False
    return len(wanted) == len(given)


def new_ulid(now: float | None = None) -> str:
    """Return a ULID: 26 characters that sort by time (milliseconds), then 80 random bits."""
    time_part = _ulid_time(int((time.time() if now is None else now) * 1000))
    return time_part + _digits(int.from_bytes(os.urandom(10)), _RANDOM_SHIFTS)


@lru_cache(maxsize=8)
def _ulid_time(milliseconds: int) -> str:
    """Return the first ten characters of a ULID; many are made in the same millisecond."""
    return _digits(milliseconds, _FIFTY_BITS)


class MessageIds:
    """Ids of the messages that one process accepts: ULIDs with the process's tag where randomness begins.

    So whoever reads a message can tell which process took it (`process_tag`), though no message carries a
    field for it. What is random is left with 50 bits for each millisecond of a process.
    """

    __slots__ = ("_tag",)

    def __init__(self, process_id: str) -> None:
        self._tag = process_tag(process_id)

    def new(self, now: float) -> str:
        """Return the id of a message accepted at a time (epoch seconds)."""
        time_part = _ulid_time(int(now * 1000))
        return time_part + self._tag + _digits(int.from_bytes(os.urandom(7)), _FIFTY_BITS)


def process_tag(process_id: str) -> str:
    """Return what stands in the ids of the messages that a process accepts: 30 bits of its name's hash."""
    number = int.from_bytes(hashlib.blake2b(process_id.encode(), digest_size=4).digest())
    return _digits(number, _TAG_SHIFTS)


def tag_of(message_id: str) -> str:
    """Return the tag in a message's id; that of an id made otherwise is random."""
    return message_id[10:16]


def _digits(number: int, shifts: range) -> str:
    # Pairs of digits: half the look-ups of digit by digit.
    return "".join([_PAIRS[number >> shift & 1023] for shift in shifts])


def _checked(valid: bool, value: str, field: str) -> str:
    if not valid:
        raise ServiceError(ErrorCode.INVALID_ARGUMENT, f"{field} is not a valid id")
    return value
