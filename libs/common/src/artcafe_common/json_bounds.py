"""Bounds on the JSON of strangers, found without decoding it.

Decoders recurse, and some refuse numbers without end: what one of them just bears, an encoder called from
deeper in the program, or whoever receives it, does not. So it is looked at before it is passed on.
"""

from __future__ import annotations

import re
from itertools import accumulate
from operator import sub

from artcafe_common.errors import invalid

DEPTH_MAX = 64
# Python reads integers of 4 300 digits; nobody needs a fraction of that.
DIGITS_MAX = 1000

# One that does not end is taken to the end of the data, without going back: linear for hostile data, too.
_STRING_RE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
# Tried at the beginning of a run of digits alone: linear, too.
_LONG_NUMBER_RE = re.compile(rb"(?<![0-9])[0-9]{%d}" % (DIGITS_MAX + 1))
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_UPS = bytes.maketrans(b"]", b" ")
_DOWNS = bytes.maketrans(b"[", b" ")
# After so many levels little is left of what is no attack.
_TURNS = 4


def check_bounds(data: bytes, what: str) -> None:
    """Let JSON pass that every client can read; `what` it is stands in the error.

    Raises: ServiceError ``invalid_argument``.
    """
    if deeper_than(data, DEPTH_MAX):
        raise invalid(f"{what}: nested deeper than {DEPTH_MAX}")
    if len(data) > DIGITS_MAX and has_long_number(data):
        raise invalid(f"{what}: a number has more than {DIGITS_MAX} digits")


def has_long_number(data: bytes) -> bool:
    """Tell whether a number in JSON has more than `DIGITS_MAX` digits in a row; text does not count."""
    if _LONG_NUMBER_RE.search(data) is None:
        return False
    return _LONG_NUMBER_RE.search(_STRING_RE.sub(b'""', data)) is not None


def deeper_than(data: bytes, limit: int) -> bool:
    """Tell whether JSON is nested deeper than `limit`; for what is no JSON the answer means nothing."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    brackets = _STRING_RE.sub(b"", data).translate(_BRACKETS, _OTHERS)
    turns = min(limit, _TURNS)
    for _ in range(turns):
        # Each turn takes the innermost level away.
        outer = brackets.replace(b"[]", b"")
        if len(outer) == len(brackets):
            return bool(brackets)
        brackets = outer
    if not brackets or turns == limit:
        return bool(brackets)
    # Going on like that would read data of many deep things as often as they are deep. The way up and down is
    # followed from turn to turn instead, of which there are few by now.
    ups = accumulate(map(len, brackets.translate(_UPS).split()))
    downs = accumulate(map(len, brackets.translate(_DOWNS).split()), initial=0)
    return max(map(sub, ups, downs), default=0) > limit - turns
