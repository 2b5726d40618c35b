"""The command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from doctor import checks
from doctor.findings import FAIL, OK, WARN, Finding, lines_of
from doctor.ways import MODULES, Compose, Embedded, Kubernetes, Way, WayError

EXIT_FAULTS, EXIT_NOT_LOOKED = 1, 2
# Each starts a program where the service runs.
AT_ONCE = 4


def main() -> int:
    """Look at everything; return 1 where there is a fault, 2 where nothing can be looked at."""
    arguments = _parser().parse_args()
    try:
        way = _way(arguments)
    except WayError as error:
        print(f"doctor: {error}", file=sys.stderr)
        return EXIT_NOT_LOOKED
    everything: list[Finding] = []
    reports: list[checks.Report] = []

    def tell(findings: list[Finding]) -> None:
        everything.extend(findings)
        if not arguments.json:
            print("\n".join(lines_of(findings)), flush=True)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        others = [pool.submit(checks.edge, way.edge), pool.submit(checks.nats, way)]
        services = [pool.submit(checks.service, way, name) for name in MODULES]
        for other in others:
            tell(other.result())
        for each in services:
            findings, found = each.result()
            reports += found
            tell(findings)
    tell(checks.compared(reports))
    counts = {status: sum(f.status == status for f in everything) for status in (OK, WARN, FAIL)}
    if arguments.json:
        print(json.dumps({"findings": [asdict(f) for f in everything], "counts": counts}, indent=2))
    else:
        print(f"\n{counts[OK]} ok, {counts[WARN]} to be looked at, {counts[FAIL]} at fault")
    return EXIT_FAULTS if counts[FAIL] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="doctor",
        description="Look at a running deployment, wherever it runs, and say what is wrong with it and what"
        " to do about it. Each service looks at its own surroundings, from where it runs; this asks every"
        " replica of all of them, looks at NATS and at the edge, and compares what they say.",
        epilog="It ends with 0 where there is no fault, 1 where there is, 2 where nothing can be looked at."
        " Without a choice it takes the embedded stack where that runs, else docker compose.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--embedded",
        type=Path,
        nargs="?",
        const=Path(os.environ.get("ARTCAFE_STATE") or ".artcafe"),
        metavar="FOLDER",
        help="the stack of `make run` (ARTCAFE_STATE, .artcafe)",
    )
    where.add_argument("--compose", action="store_true", help="what docker compose runs")
    where.add_argument("--kubernetes", action="store_true", help="what runs in a namespace, by kubectl")
    parser.add_argument("--namespace", default="artcafe", help="of Kubernetes (artcafe)")
    parser.add_argument("--edge", metavar="URL", help="the platform's address; Kubernetes cannot tell it")
    parser.add_argument("--json", action="store_true", help="print one JSON object in the place of lines")
    return parser


def _way(arguments: argparse.Namespace) -> Way:
    way: Way
    if arguments.kubernetes:
        return Kubernetes(arguments.namespace, arguments.edge)
    if arguments.compose:
        way = Compose()
    elif arguments.embedded is not None:
        way = Embedded(arguments.embedded)
    else:
        way = _first_that_runs(Path(os.environ.get("ARTCAFE_STATE") or ".artcafe"))
    way.edge = arguments.edge or way.edge
    return way


def _first_that_runs(folder: Path) -> Way:
    """Return the way to this machine's stack, else to that of docker compose."""
    try:
        return Embedded(folder)
    except ImportError:
        # Not installed here: nobody has started one.
        return Compose()
    except WayError as error:
        try:
            return Compose()
        except WayError as other:
            raise WayError(f"{error}. Nor is there one of docker compose: {other}") from None


if __name__ == "__main__":
    sys.exit(main())
