"""What is printed: aligned tables and records for people, JSON for programs.

What others wrote (names, messages) is shown with control characters escaped: a terminal obeys them.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

COLUMN_GAP = "  "


def as_text(value: Any) -> str:
    """Return a value for people: strings as they are, the rest as JSON, nothing as a dash."""
    if value is None or value == "" or value == [] or value == {}:
        return "-"
    if isinstance(value, str):
        text = value
    elif isinstance(value, list) and all(isinstance(each, str) for each in value):
        text = ", ".join(value)
    else:
        text = json.dumps(value, ensure_ascii=False)
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def json_text(value: Any, indent: int | None = None) -> str:
    """Return a value for programs; JSON itself escapes only some of what a terminal obeys."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return "".join(each if each.isprintable() or each == "\n" else _escaped(each) for each in text)


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as an aligned table under a heading; ``columns`` are the fields to show."""
    lines = [[name.upper().replace("_", " ") for name in columns]]
    lines += [[as_text(row.get(name)) for name in columns] for row in rows]
    widths = [max(_width(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        COLUMN_GAP.join(_padded(text, width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def record(fields: Mapping[str, Any]) -> str:
    """Return one object as aligned lines of name and value."""
    width = max((_width(name) for name in fields), default=0)
    return "\n".join(f"{_padded(name, width)}{COLUMN_GAP}{as_text(value)}" for name, value in fields.items())


class Output:
    """Where a command prints: results to stdout, everything else to stderr."""

    def __init__(self, as_json: bool, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.as_json = as_json
        self._stdout = stdout or sys.stdout
        self._stderr = stderr or sys.stderr

    def result(self, value: Any, text: str) -> None:
        """Print a result: ``value`` as JSON, or ``text``."""
        print(json_text(value, indent=2) if self.as_json else text, file=self._stdout)

    def line(self, value: Any, text: str) -> None:
        """Print one of many results at once: ``value`` as one line of JSON, or ``text``."""
        print(json_text(value) if self.as_json else text, file=self._stdout, flush=True)

    def note(self, text: str) -> None:
        """Tell the person something that is not the result."""
        print(text, file=self._stderr, flush=True)

    def error(self, text: str) -> None:
        """Tell what went wrong, in one line."""
        print(f"artcafe: {as_text(text)}", file=self._stderr, flush=True)


def _escaped(each: str) -> str:
    return f"\\u{ord(each):04x}" if ord(each) < 0x10000 else json.dumps(each)[1:-1]


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
