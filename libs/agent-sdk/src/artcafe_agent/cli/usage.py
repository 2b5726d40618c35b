"""`artcafe usage`."""

from __future__ import annotations

import argparse
from typing import Any

from artcafe_agent.cli.commands import Parsers, add_command, add_group
from artcafe_agent.cli.context import Context
from artcafe_agent.cli.output import record, table


def register(parsers: Parsers) -> None:
    """Declare the commands."""
    usage = add_group(parsers, "usage", "What an organisation has used.")
    add_command(
        usage, "current", current, "Show the current billing month.", "artcafe usage current --tenant acme"
    )
    add_command(usage, "summary", summary, "Show today, 7 days and 30 days.", "artcafe usage summary")
    parser = add_command(
        usage,
        "metrics",
        metrics,
        "Show figures by hour, day or month.",
        "artcafe usage metrics --start 2026-01-01 --end 2026-01-31 --granularity day --group-by agent",
    )
    parser.add_argument("--start", dest="start_date", metavar="DATE", help="first day, YYYY-MM-DD (UTC)")
    parser.add_argument("--end", dest="end_date", metavar="DATE", help="last day")
    parser.add_argument("--granularity", choices=("hour", "day", "month"))
    parser.add_argument("--group-by", choices=("agent", "channel"))


def current(context: Context, args: argparse.Namespace) -> None:
    """Show the billing month."""
    reply = context.call("GET", "usage", "current")
    context.out.result(reply, record(flat(reply)))


def summary(context: Context, args: argparse.Namespace) -> None:
    """Show the recent days."""
    reply = context.call("GET", "usage", "summary")
    context.out.result(reply, record(flat(reply)))


def metrics(context: Context, args: argparse.Namespace) -> None:
    """Show figures of a time."""
    query = {name: getattr(args, name) for name in ("start_date", "end_date", "granularity", "group_by")}
    reply = context.call("GET", "usage", "metrics", query=query)
    rows = reply.get("metrics") or []
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = table(rows, columns) if rows else "no figures"
    if reply.get("totals"):
        text += "\n\ntotals\n" + record(flat(reply["totals"]))
    context.out.result(reply, text)


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested objects as one, with names joined by spaces."""
    fields: dict[str, Any] = {}
    for name, each in value.items():
        label = f"{prefix} {name}".strip()
        if isinstance(each, dict) and each:
            fields |= flat(each, label)
        else:
            fields[label] = each
    return fields
