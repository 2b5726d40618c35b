"""What a check has found, and how it is shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Literal

import msgspec

Status = Literal["ok", "warn", "fail"]
Kind = Literal["silent", "files", "shared"]


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line: `fail` is a fault, `warn` will become one, and `cure` says what to do about it.

    Where that depends on what runs the service, `kind` says what is the matter: ``silent`` (it does not
    answer) or ``files`` (it may open too few). `tools/doctor` knows the cure then. ``shared`` is what one of
    the replicas does for all of them: of several findings the best one holds.
    """

    check: str
    status: Status
    detail: str
    cure: str = ""
    kind: Kind | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica has found; `clock_offset` is by how many seconds its clock is ahead of NATS's."""

    service: str
    server_id: str
    version: str
    findings: list[Finding]
    clock_offset: float | None = None


class Findings:
    """Collects the findings of one check."""

    def __init__(self, check: str) -> None:
        self._check = check
        self.listed: list[Finding] = []

    def ok(self, detail: str, kind: Kind | None = None) -> None:
        """Note that something is as it should be."""
        self.listed.append(Finding(check=self._check, status="ok", detail=detail, kind=kind))

    def warn(self, detail: str, cure: str, kind: Kind | None = None) -> None:
        """Note what works and should not stay so."""
        self.listed.append(Finding(check=self._check, status="warn", detail=detail, cure=cure, kind=kind))

    def fail(self, detail: str, cure: str, kind: Kind | None = None) -> None:
        """Note a fault."""
        self.listed.append(Finding(check=self._check, status="fail", detail=detail, cure=cure, kind=kind))


# A check looks at one thing and says what it has found; what it raises is a fault, too.
Check = Callable[[Findings], Awaitable[None]]


def lines_of(findings: Iterable[Finding]) -> list[str]:
    """Return findings as text: a line each, and under it the cure."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<4}  {finding.check:<10}  {finding.detail}")
        if finding.cure:
            lines.append(f"{'':18}cure: {finding.cure}")
    return lines
