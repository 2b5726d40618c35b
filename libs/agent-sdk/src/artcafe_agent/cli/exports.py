"""`artcafe usage export` and `artcafe usage verify`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artcafe_agent.cli.commands import Parsers, add_command
from artcafe_agent.cli.context import Context
from artcafe_agent.cli.exits import Exit, UsageError
from artcafe_agent.cli.output import record, table
from artcafe_agent.errors import UnexpectedAnswer
from artcafe_agent.manifests import Checked, Manifest, NotGenuine, check_chain, check_file, read_manifest

MANIFEST_SUFFIX = ".jws"


def register(usage: Parsers) -> None:
    """Declare the commands."""
    parser = add_command(
        usage,
        "export",
        export,
        "Write the usage of each day to a file, with a signed manifest beside it.",
        "artcafe usage export --start 2026-01-01 --end 2026-01-31 --out january.csv",
    )
    parser.add_argument("--start", dest="start_date", metavar="DATE", help="first day, YYYY-MM-DD (UTC)")
    parser.add_argument("--end", dest="end_date", metavar="DATE", help="last day")
    parser.add_argument("--format", choices=("csv", "jsonl"), default="csv")
    parser.add_argument("--group-by", choices=("agent", "channel"))
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to; must not exist")
    parser = add_command(
        usage,
        "verify",
        verify,
        "Check exported files against their manifests.",
        "artcafe usage verify january.csv february.csv",
        "Checks the signature of each manifest, the file's hash, rows and totals, and that manifests which "
        "follow each other are linked. The manifest of FILE is FILE.jws.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument(
        "--keys", type=Path, metavar="FILE", help="the public keys (keys.json); default: asked of the server"
    )


def export(context: Context, args: argparse.Namespace) -> None:
    """Write a file and its manifest."""
    names = ("start_date", "end_date", "format", "group_by")
    query = {name: getattr(args, name) for name in names}
    beside = args.out.with_name(args.out.name + MANIFEST_SUFFIX)
    draft = args.out.with_name(args.out.name + ".part")
    for path in (args.out, beside):
        if path.exists():
            raise UsageError(f"{path} is there already")
    try:
        try:
            with draft.open("wb") as file:
                headers = context.download(file, "usage", "export", query=query)
            export_id = headers.get("artcafe-export-id", "")
            if not export_id:
                raise UnexpectedAnswer(f"{context.server} answers, but not as an ArtCafe server")
            signed = str(context.call("GET", "usage", "exports", export_id).get("manifest", ""))
            beside.write_text(signed + "\n")
            draft.rename(args.out)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as problem:
        raise UsageError(f"{args.out} cannot be written: {problem.strerror}") from None
    told = {"file": str(args.out), "manifest": str(beside), "export_id": export_id}
    context.out.result(told, record(told))


def verify(context: Context, args: argparse.Namespace) -> int:
    """Check files."""
    keys = _keys(context, args.keys)
    checked: list[Checked] = []
    failed: list[dict[str, Any]] = []
    for path in args.files:
        try:
            manifest = _manifest(path, keys)
            checked.append(Checked(str(path), manifest, check_file(path, manifest)))
        except NotGenuine as problem:
            failed.append({"file": str(path), "result": str(problem)})
        except OSError as problem:
            failed.append({"file": str(path), "result": f"cannot be read: {problem.strerror}"})
    broken, gaps = check_chain(checked)
    failed += [{"file": file, "result": text} for file, text in broken]
    wrong = {row["file"] for row in failed}
    good = [
        {"file": each.file, "result": "genuine", "number": each.manifest.number, "rows": each.manifest.rows}
        | {"messages": each.totals.get("messages", 0)}
        for each in checked
        if each.file not in wrong
    ]
    reply = {"files": good + failed, "gaps": gaps, "genuine": not failed}
    context.out.result(reply, table(good + failed, ["file", "result", "number", "rows", "messages"]))
    for gap in gaps:
        context.out.note(f"not given: {gap}; what was exported in between is not checked")
    return Exit.FAILED if failed else Exit.OK


def _manifest(path: Path, keys: Mapping[str, str]) -> Manifest:
    beside = path.with_name(path.name + MANIFEST_SUFFIX)
    return read_manifest(beside.read_text().strip(), keys)


def _keys(context: Context, path: Path | None) -> dict[str, str]:
    """Return the public keys by their id."""
    try:
        if path is not None:
            found = json.loads(path.read_text())
        else:
            found = context.ask("GET", "usage", "export", "keys.json").json()
        return {key["kid"]: key["x"] for key in found["keys"] if key.get("crv") == "Ed25519"}
    except OSError as problem:
        raise UsageError(f"{path} cannot be read: {problem.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        if path is not None:
            raise UsageError(f"{path} holds no keys") from None
        raise UnexpectedAnswer(f"{context.server} answers, but not with the keys of exports") from None
