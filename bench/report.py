"""What a person sees, and what stays: a table on the terminal, and a file with everything."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.findings import Finding, Outcome
from bench.plot import bars

_MET = {True: "met", False: "NOT MET", None: ""}


def table(outcomes: Sequence[Outcome], *, judged: bool) -> str:
    """Return the findings of all scenarios as text, with whether targets are met if `judged`."""
    lines = []
    for outcome in outcomes:
        rows = [_row(finding, judged) for finding in outcome.findings]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines.append(f"\n{outcome.scenario}: median (lowest-highest)")
        for row in rows:
            lines.append(
                "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            )
        lines += [f"  note: {remark}" for remark in outcome.remarks]
    return "\n".join(lines)


def save(outcomes: Sequence[Outcome], facts: Mapping[str, Any], folder: Path) -> Path:
    """Write everything into a new file of a folder, with a drawing beside it, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
    content = {
        "facts": dict(facts),
        "outcomes": [
            {
                "scenario": outcome.scenario,
                "findings": [asdict(finding) | {"met": finding.met} for finding in outcome.findings],
                "remarks": list(outcome.remarks),
                "details": outcome.details,
            }
            for outcome in outcomes
        ],
    }
    path.write_text(json.dumps(content, indent=1))
    path.with_suffix(".svg").write_text(bars(outcomes))
    return path


def _row(finding: Finding, judged: bool) -> tuple[str, str, str, str]:
    value = finding.value
    text = f"{value.median:.{finding.digits}f}" if value.low == value.high else value.text(finding.digits)
    target = "" if finding.limit is None else f"target <= {finding.limit:.3g}"
    return finding.what, f"{text} {finding.unit}", target, _MET[finding.met if judged else None]
