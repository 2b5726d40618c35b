"""The costs as bars, in one SVG that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from bench.findings import Finding, Outcome

WIDTH, LABEL_WIDTH, BAR_WIDTH = 900, 330, 420
ROW_HEIGHT, TITLE_HEIGHT = 20, 34
_OURS, _OTHERS = "#b5651d", "#8a94a0"


def bars(outcomes: Sequence[Outcome]) -> str:
    """Return one group of bars for each thing that was measured with several servers."""
    parts: list[str] = []
    height = 0
    for title, findings in _groups(outcomes):
        height += TITLE_HEIGHT
        parts.append(f'<text x="0" y="{height - 8}" font-weight="bold">{escape(title)}</text>')
        longest = max(finding.value.high for finding in findings)
        for finding in findings:
            parts.append(_bar(finding, longest, height))
            height += ROW_HEIGHT
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height + 10}"'
        ' font-family="sans-serif" font-size="13">'
    )
    return "\n".join((head, *parts, "</svg>\n"))


def _groups(outcomes: Sequence[Outcome]) -> list[tuple[str, list[Finding]]]:
    """Return what can be compared: neighbours with the same load and unit, which differ in the server."""
    groups = []
    for outcome in outcomes:
        comparable = [f for f in outcome.findings if ": " in f.what and f.unit != "x"]
        for (load, unit), found in groupby(comparable, key=lambda f: (f.what.partition(": ")[0], f.unit)):
            findings = list(found)
            if len(findings) > 1:
                groups.append((f"{load} ({unit})", findings))
    return groups


def _bar(finding: Finding, longest: float, top: int) -> str:
    label = finding.what.partition(": ")[2]
    scale = BAR_WIDTH / longest
    value = finding.value
    middle = top + ROW_HEIGHT / 2
    colour = _OURS if "ArtCafe" in label else _OTHERS
    return (
        f'<text x="10" y="{top + 14}">{escape(label)}</text>'
        f'<rect x="{LABEL_WIDTH}" y="{top + 3}" width="{value.median * scale:.1f}"'
        f' height="{ROW_HEIGHT - 6}" fill="{colour}"/>'
        f'<line x1="{LABEL_WIDTH + value.low * scale:.1f}" x2="{LABEL_WIDTH + value.high * scale:.1f}"'
        f' y1="{middle}" y2="{middle}" stroke="black"/>'
        f'<text x="{LABEL_WIDTH + BAR_WIDTH + 8}" y="{top + 14}">{escape(value.text(finding.digits))}</text>'
    )
