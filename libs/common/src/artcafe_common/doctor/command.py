"""The command ``doctor`` of a service."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from artcafe_common import __version__
from artcafe_common.config import SharedConfig
from artcafe_common.doctor.checks import Surroundings
from artcafe_common.doctor.findings import Check, Finding, Findings, Report, lines_of

DOCTOR = "doctor"
CHECK_SECONDS = 20.0
EXIT_FAULTS = 1

Examine = Callable[[Surroundings], Mapping[str, Check]]


def add_doctor_command(commands: Any) -> None:
    """Declare the command among those of a service (`argparse`'s subparsers)."""
    parser = commands.add_parser(
        DOCTOR,
        help="check what this service depends on, from where it runs; ends with 1 where there is a fault",
        description="Look at everything this service depends on, with its own settings and rights, beside the"
        " running service, and print a line for each thing with what to do about it. Nothing is changed.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object in the place of lines")


def run_doctor(service: str, arguments: argparse.Namespace, config: SharedConfig, examine: Examine) -> int:
    """Carry out the checks and return the exit status: 1 where there is a fault."""
    # What a client logs about a server that is away is in the findings.
    logging.disable(logging.CRITICAL)
    try:
        report = asyncio.run(_report(service, config, examine))
    finally:
        logging.disable(logging.NOTSET)
    if arguments.json:
        print(msgspec.json.encode(report).decode())
    else:
        print("\n".join(lines_of(report.findings)))
    sys.stdout.flush()
    return EXIT_FAULTS if any(finding.status == "fail" for finding in report.findings) else 0


async def _report(service: str, config: SharedConfig, examine: Examine) -> Report:
    findings: list[Finding] = []
    async with Surroundings(service, config) as around:
        for name, check in examine(around).items():
            findings += await _carried_out(name, check)
        offset = around.clock_offset
    return Report(
        service=service,
        server_id=config.server_id,
        version=__version__,
        findings=findings,
        clock_offset=offset,
    )


async def _carried_out(name: str, check: Check) -> list[Finding]:
    found = Findings(name)
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check(found)
    except TimeoutError:
        found.fail(f"no answer within {CHECK_SECONDS:.0f} seconds", "see whether it runs and can be reached")
    except Exception as error:
        # Not its text where it is not known what is in it: an address may hold a password.
        found.fail(f"cannot be looked at: {type(error).__name__}", "see the log of the service")
    return found.listed
