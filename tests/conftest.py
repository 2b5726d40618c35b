"""Say loudly what was not run: here, where the process that only collects from others reads it, too."""

from __future__ import annotations

import pytest

BROWSER_TESTS = "tests/browser/"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end, in red, that the browser tests were not run, and what they miss."""
    skipped = [
        report for report in terminalreporter.getreports("skipped") if report.nodeid.startswith(BROWSER_TESTS)
    ]
    if skipped:
        reason = skipped[0].longrepr[2].removeprefix("Skipped: ")
        terminalreporter.section("THE BROWSER TESTS WERE NOT RUN", red=True, bold=True)
        terminalreporter.write_line(f"{BROWSER_TESTS}: {reason}", red=True, bold=True)
