"""Tell batches that alone are refused from a Valkey that refuses.

A refusal is a batch's own where its kind is not one of a server in trouble, and the server takes a write
right after it. It counts as a try only if something else was applied since the last one: a script that fails
for everybody is a fault of ours, and nobody's usage is put aside for it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from redis.exceptions import ResponseError

# Half a minute lies between two: a fault that is mended at once puts nothing aside.
TRIES_MAX = 10
_REMEMBERED = 10_000
_SERVERS_OWN = re.compile(
    r"(ASK|BUSY|CLUSTERDOWN|EXECABORT|LOADING|MASTERDOWN|MISCONF|MOVED|NOAUTH|NOPERM|NOREPLICAS|NOSCRIPT|OOM"
    r"|READONLY|TRYAGAIN|UNKILLABLE|WRONGPASS)\b|.*\bOOM command not allowed"
)


def is_servers_own(answer: ResponseError) -> bool:
    """Tell whether an answer is a server's trouble, which passes: full, loading, read-only."""
    # The library has a class for each of those, and takes the code out of the text.
    return type(answer) is not ResponseError or _SERVERS_OWN.match(str(answer)) is not None


@dataclass(slots=True)
class _Case:
    tries: int
    applied_before: int
    reasons: Mapping[str, str]


class Stubborn:
    """How often which batch was refused; forgotten with the process, which then tries as often again."""

    def __init__(self) -> None:
        self._applied = 0
        self._cases: OrderedDict[tuple[str, int], _Case] = OrderedDict()

    def applied(self) -> None:
        """Note that something was counted."""
        self._applied += 1

    def done(self, source: str, seq: int) -> None:
        """Note that a batch was applied for all of its tenants."""
        if self._cases:
            self._cases.pop((source, seq), None)

    def refused(self, source: str, seq: int, reasons: Mapping[str, str]) -> None:
        """Note that a batch was refused for some tenants."""
        case = self._cases.setdefault((source, seq), _Case(0, -1, reasons))
        case.reasons = reasons
        if self._applied > case.applied_before:
            case.tries += 1
            case.applied_before = self._applied
        self._cases.move_to_end((source, seq))
        if len(self._cases) > _REMEMBERED:
            self._cases.popitem(last=False)

    def given_up(self, source: str, seq: int) -> Mapping[str, str]:
        """Return for which tenants, and why, a batch is not tried again; nothing as long as it is."""
        case = self._cases.get((source, seq))
        return case.reasons if case is not None and case.tries >= TRIES_MAX else {}
