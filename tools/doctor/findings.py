"""What was found, where, and how it is shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `fail` is a fault, `warn` will become one, and `cure` says what to do about it."""

    where: str
    check: str
    status: str
    detail: str
    cure: str = ""


def lines_of(findings: Iterable[Finding]) -> list[str]:
    """Return findings as text: a line each, and under it the cure."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<4}  {finding.where:<14}  {finding.check:<10}  {finding.detail}")
        if finding.cure:
            lines.append(f"{'':<34}cure: {finding.cure}")
    return lines
