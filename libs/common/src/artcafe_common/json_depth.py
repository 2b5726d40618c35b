"""How deeply JSON is nested, found without decoding it.

Decoders recurse: what one of them just bears, an encoder called from deeper in the program does not. So data
of strangers is bounded before it is decoded and stored.
"""

from __future__ import annotations

import re

# One that does not end is taken to the end of the data, without going back: linear for hostile data, too.
_STRING_RE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


def deeper_than(data: bytes, limit: int) -> bool:
    """Tell whether JSON is nested deeper than `limit`; for what is no JSON the answer means nothing."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    brackets = _STRING_RE.sub(b"", data).translate(_BRACKETS, _OTHERS)
    for _ in range(limit):
        # Each turn takes the innermost level away.
        outer = brackets.replace(b"[]", b"")
        if len(outer) == len(brackets):
            break
        brackets = outer
    return bool(brackets)
