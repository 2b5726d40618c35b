"""`artcafe usage`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from artcafe_agent.cli import exports
from artcafe_agent.cli.commands import Parsers, add_command, add_group, add_range
from artcafe_agent.cli.context import Context
from artcafe_agent.cli.exits import Exit
from artcafe_agent.cli.output import record, table

FIGURES = (
    "messages",
    "deliveries",
    "bytes_in",
    "bytes_out",
    "api_calls",
    "active_agents",
    "active_channels",
    "connection_seconds",
)


def register(parsers: Parsers) -> None:
    """Declare the commands."""
    usage = add_group(
        parsers,
        "usage",
        "What an organisation has used; alone, in this month.",
        "artcafe usage\nartcafe usage metrics --start 2026-01-01 --end 2026-01-31 --granularity day",
        current,
    )
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
        "As text without the times in which there was nothing; with --json all of them.",
    )
    add_range(parser)
    parser.add_argument("--granularity", choices=("hour", "day", "month"))
    parser.add_argument("--group-by", choices=("agent", "channel"))
    parser = add_command(
        usage,
        "reconcile",
        reconcile,
        "Show whether days are what was recounted from the gateways' batches.",
        "artcafe usage reconcile --start 2026-01-01 --end 2026-01-31",
        "Each day is recounted once it is closed, and again if something came late. Ends with 1 where "
        "a day, or an agent or a channel of it, is different.",
    )
    add_range(parser)
    exports.register(usage)


def current(context: Context, args: argparse.Namespace) -> None:
    """Show the billing month."""
    reply = context.call("GET", "usage", "current")
    period = reply.get("current_period", {})
    head = {name: reply.get(name) for name in ("tenant_id", "plan")}
    head |= {"from": period.get("start"), "to": period.get("end")}
    times = {"this month": reply.get("usage"), "today": reply.get("today")}
    context.out.result(reply, f"{record(head)}\n\n{figures(times)}\n\n{_limits(reply)}")


def summary(context: Context, args: argparse.Namespace) -> None:
    """Show the recent days."""
    reply = context.call("GET", "usage", "summary")
    times = {"today": reply.get("today"), "7 days": reply.get("last_7_days")}
    times["30 days"] = reply.get("last_30_days")
    context.out.result(reply, figures(times))


def metrics(context: Context, args: argparse.Namespace) -> None:
    """Show figures of a time."""
    query = {name: getattr(args, name) for name in ("start_date", "end_date", "granularity", "group_by")}
    reply = context.call("GET", "usage", "metrics", query=query)
    group = f"{args.group_by}_id" if args.group_by is not None else None
    rows = [row for period in reply.get("metrics", []) for row in _rows(period, group)]
    totals = reply.get("totals", {})
    # Without any usage there is a line none the less: the zeros are the answer.
    rows += [{**row, "start": "total"} for row in _rows(totals, group) or [totals]]
    context.out.result(reply, table(rows, _columns(rows, "start", *([group] if group else []))))


def reconcile(context: Context, args: argparse.Namespace) -> int:
    """Show what came of recounting days."""
    query = {name: getattr(args, name) for name in ("start_date", "end_date")}
    reply = context.call("GET", "usage", "reconciliation", query=query)
    days = reply.get("days", [])
    rows = [row for day in days for row in _reconciled(day)]
    ids = [name for name in ("agent_id", "channel_id") if any(row.get(name) for row in rows)]
    context.out.result(reply, table(rows, ["date", "result", "checked_at", *ids, *FIGURES[:5]]))
    for day in days:
        for kind in ("agent", "channel"):
            named = sum(f"{kind}_id" in group for group in day.get("groups") or [])
            if (more := day.get(f"{kind}s_different", 0) - named) > 0:
                context.out.note(f"{day.get('date')}: and {more} more {kind}s that are different")
    return Exit.FAILED if any(day.get("result") == "different" for day in days) else Exit.OK


def figures(times: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Return the figures of several times as a table, one line for each time that is given."""
    rows = [{"period": name, **values} for name, values in times.items() if values is not None]
    return table(rows, _columns(rows, "period"))


def _columns(rows: list[dict[str, Any]], *first: str) -> list[str]:
    return [*first, *(name for name in FIGURES if any(name in row for row in rows))]


def _rows(period: Mapping[str, Any], group: str | None) -> list[dict[str, Any]]:
    """Return a period as rows: itself, or one for each agent or channel in it; none if nothing happened."""
    if group is not None:
        return [{"start": period.get("start"), **each} for each in period.get("groups") or []]
    return [dict(period)] if any(period.get(name) for name in FIGURES) else []


def _reconciled(day: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a day as one row; where it is different two with figures, for it and each agent or channel."""
    if day.get("result") != "different":
        return [dict(day)]
    about = {name: day.get(name) for name in ("date", "checked_at")}
    return [
        {**about, **part, **(part.get(side) or {}), "result": side}
        for part in (day, *(day.get("groups") or []))
        for side in ("counted", "recounted")
    ]


def _limits(reply: Mapping[str, Any]) -> str:
    limits = reply.get("limits") or {}
    return record({f"limit {name}": "unlimited" if limits[name] is None else limits[name] for name in limits})
