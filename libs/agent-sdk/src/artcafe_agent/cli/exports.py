"""`artcafe usage export`, `artcafe usage exports` and `artcafe usage verify`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from artcafe_agent.cli.commands import Parsers, add_command, add_page_options, add_range
from artcafe_agent.cli.context import Context
from artcafe_agent.cli.exits import Exit, UsageError
from artcafe_agent.cli.output import record, table
from artcafe_agent.cli.pages import LARGEST_PAGE, show_list
from artcafe_agent.errors import UnexpectedAnswer
from artcafe_agent.manifests import (
    Head,
    Link,
    Manifest,
    NotGenuine,
    check_chain,
    check_file,
    read_manifest,
)

MANIFEST_SUFFIX = ".jws"
_ABOUT = ("number", "tenant_id", "start_date", "end_date", "created_at")
COLUMNS = ("file", "result", *_ABOUT, "rows", "messages")
LIST_COLUMNS = ("number", "start_date", "end_date", "created_at", "format", "group_by", "rows", "export_id")


def register(usage: Parsers) -> None:
    """Declare the commands."""
    parser = add_command(
        usage,
        "export",
        export,
        "Write the usage of each day to a file, with a signed manifest beside it.",
        "artcafe usage export --start 2026-01-01 --end 2026-01-31 --out january.csv",
    )
    add_range(parser)
    parser.add_argument("--format", choices=("csv", "jsonl", "parquet"), default="csv")
    parser.add_argument("--group-by", choices=("agent", "channel"))
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to; must not exist")
    parser = add_command(
        usage,
        "exports",
        exports,
        "List the exports that were made, newest first.",
        "artcafe usage exports --all",
    )
    add_page_options(parser)
    parser = add_command(
        usage,
        "verify",
        verify,
        "Check exported files against their manifests, and the chain of all manifests.",
        "artcafe usage verify january.csv february.csv\nartcafe usage verify --chain january.csv",
        "Checks the signature of each manifest, the file's hash, rows and totals, and that manifests which "
        "follow each other are linked. The manifest of FILE is FILE.jws; it can be given without its file. "
        "With --chain the manifests in between, and all others of the organisation up to the newest, are "
        "fetched and checked, too: one that is missing is a failure.",
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--chain", action="store_true", help="fetch and check the manifests of all exports")
    parser.add_argument("--strict", action="store_true", help="end with 1 where a manifest was not given")
    parser.add_argument(
        "--keys",
        type=Path,
        action="append",
        metavar="FILE",
        help="public keys (keys.json), may be repeated; default: asked of the server",
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


def exports(context: Context, args: argparse.Namespace) -> None:
    """List exports."""
    show_list(context, args, "exports", LIST_COLUMNS, "usage", "exports")


def verify(context: Context, args: argparse.Namespace) -> int:
    """Check files and chains."""
    if not args.files and not args.chain:
        raise UsageError("give a file, or --chain")
    keys = _keys(context, args.keys)
    given: list[Link] = []
    good: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for path in args.files:
        try:
            manifest, row = _checked(path, keys)
            given.append(Link(str(path), manifest))
            good.append(row)
        except NotGenuine as problem:
            failed.append({"file": str(path), "result": str(problem)})
        except OSError as problem:
            # The file, or its manifest.
            name = problem.filename or path
            failed.append({"file": str(path), "result": f"{name} cannot be read: {problem.strerror}"})
    fetched: list[Link] = []
    heads: dict[str, Head] = {}
    if args.chain:
        for tenant in sorted({link.manifest.tenant_id for link in given}) or (context.tenant,):
            _fetch(replace(context, tenant=tenant), keys, fetched, heads, failed)
    # In this order: of two manifests with one number it is the file's that is told to be wrong.
    broken, gaps = check_chain([*fetched, *given], heads)
    if args.chain:
        # What a file brings along is missing there all the same.
        _, gaps = check_chain(fetched, heads)
    failed += [{"file": file, "result": text} for file, text in broken]
    wrong = {row["file"] for row in failed}
    rows = [row for row in good if row["file"] not in wrong] + failed
    chains = [
        {"tenant_id": name, "number": head.number, "sha256": head.sha256} for name, head in heads.items()
    ]
    whole = not gaps and not failed
    text = [table(rows, COLUMNS)] if rows else []
    text += [_chain_line(name, head, whole) for name, head in heads.items()]
    reply = {"files": rows, "gaps": gaps, "chains": chains, "genuine": not failed, "complete": not gaps}
    context.out.result(reply, "\n".join(text))
    for gap in gaps:
        if args.chain:
            context.out.note(f"WARNING: {gap}: the platform has taken out what it had made")
        else:
            context.out.note(f"WARNING: {gap}: not given, so not checked; --chain fetches the manifests")
    return Exit.FAILED if failed or (gaps and (args.strict or args.chain)) else Exit.OK


def _checked(path: Path, keys: Mapping[str, str]) -> tuple[Manifest, dict[str, Any]]:
    """Return the manifest of a file that was found genuine, and what to show of it."""
    alone = path.suffix == MANIFEST_SUFFIX
    beside = path if alone else path.with_name(path.name + MANIFEST_SUFFIX)
    # Whatever it holds is not signed text, if it is no text.
    manifest = read_manifest(beside.read_bytes().decode("ascii", "replace").strip(), keys)
    totals = manifest.totals if alone else check_file(path, manifest)
    row = {"file": str(path), "result": "genuine (manifest alone)" if alone else "genuine"}
    row |= {name: getattr(manifest, name) for name in (*_ABOUT, "rows")}
    return manifest, row | {"messages": totals.get("messages", 0)}


def _fetch(
    context: Context,
    keys: Mapping[str, str],
    links: list[Link],
    heads: dict[str, Head],
    failed: list[dict[str, Any]],
) -> None:
    """Add the manifests of all exports of an organisation, and the head of their chain."""
    token: str | None = None
    tenant_id: str | None = None
    try:
        while True:
            page = context.call("GET", "usage", "exports", query={"limit": LARGEST_PAGE, "next_token": token})
            if tenant_id is None:
                tenant_id, head = str(page["tenant_id"]), page["head"] or {"number": 0, "sha256": ""}
                heads[tenant_id] = Head(int(head["number"]), str(head["sha256"]))
            for each in page["exports"]:
                name = f"manifest {each['number']} of {tenant_id}"
                try:
                    manifest = read_manifest(each["manifest"], keys)
                    if (manifest.tenant_id, manifest.number) != (tenant_id, each["number"]):
                        raise NotGenuine("the manifest is another one")
                    links.append(Link(name, manifest))
                except NotGenuine as problem:
                    failed.append({"file": name, "result": str(problem)})
            token = page["next_token"]
            if token is None:
                return
            if not page["exports"]:
                raise ValueError("a page without anything")
    except (KeyError, TypeError, ValueError):
        raise UnexpectedAnswer(f"{context.server} answers, but not with a list of exports") from None


def _chain_line(tenant_id: str, head: Head, whole: bool) -> str:
    if not whole:
        return f"chain of {tenant_id}: NOT whole up to its head, manifest {head.number}"
    if not head.number:
        return f"chain of {tenant_id}: nothing was exported"
    return f"chain of {tenant_id}: whole, from manifest 1 to its head {head.number}, sha256 {head.sha256}"


def _keys(context: Context, paths: list[Path] | None) -> dict[str, str]:
    """Return the public keys by their id: those of the files, or where there are none, the server's."""
    if not paths:
        try:
            return _of_set(context.ask("GET", "usage", "export", "keys.json").json())
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UnexpectedAnswer(f"{context.server} answers, but not with the keys of exports") from None
    found: dict[str, str] = {}
    for path in paths:
        try:
            for kid, key in _of_set(json.loads(path.read_text())).items():
                if found.setdefault(kid, key) != key:
                    raise UsageError(f"{path} has another key under an id of a file before it")
        except OSError as problem:
            raise UsageError(f"{path} cannot be read: {problem.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UsageError(f"{path} holds no keys") from None
    return found


def _of_set(document: Any) -> dict[str, str]:
    return {key["kid"]: key["x"] for key in document["keys"] if key.get("crv") == "Ed25519"}
