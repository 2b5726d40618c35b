"""A service's process: its command line, its start and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from artcafe_common import __version__

PROGRAM = '''
import asyncio, sys
from typing import Annotated
from artcafe_common.config import Secret, SharedConfig, describe
from artcafe_common.service import parser_for, run_service

class DemoConfig(SharedConfig, frozen=True, kw_only=True):
    """Settings."""
    size: Annotated[int, describe("How big")] = 3
    key: Annotated[Secret, describe("A key")]

async def main(config, stop):
    print("ready", config.size, flush=True)
    if config.size == 13:
        raise ValueError("bad luck")
    await stop.wait()
    print("stopping", flush=True)
    if config.size == 99:
        await asyncio.Event().wait()

arguments = parser_for("demo", "A demo service.", DemoConfig, "DEMO_").parse_args()
run_service("demo", arguments, DemoConfig, "DEMO_", main)
'''

GOOD = {"NATS_URL": "nats://n:1", "DEMO_KEY": "hunter2", "ARTCAFE_SERVER_ID": "s1"}


@contextmanager
def _process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(sys.path), **environment}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    with _process(*arguments, **environment) as process:
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


def _log(err: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in err.splitlines()]


def test_configuration_can_be_checked() -> None:
    """A good configuration is said to be good, and nothing is started."""
    assert _run("--check-config", **GOOD) == (0, "configuration: ok\n", "")


@pytest.mark.parametrize("arguments", [[], ["--check-config"]])
def test_bad_configuration_ends_the_start(arguments: list[str]) -> None:
    """Each fault is a line that names the variable, without a stack and without a secret."""
    status, out, err = _run(*arguments, NATS_URL="n", DEMO_SIZ="1", DEMO_SIZE="hunter2")
    assert (status, out) == (2, "")
    assert err.splitlines() == [
        "configuration: DEMO_SIZ is not a setting; did you mean DEMO_SIZE?",
        "configuration: DEMO_SIZE is not valid: Expected `int`, got `str`",
        "configuration: DEMO_KEY is not set: A key",
    ]


def test_version_is_told() -> None:
    """A service says which version it is, configured or not."""
    assert _run("--version") == (0, f"{__version__}\n", "")


def test_help_lists_the_settings() -> None:
    """Whoever sets a service up reads its settings there."""
    status, out, _ = _run("--help")
    assert status == 0
    assert "A demo service." in out
    assert "DEMO_SIZE: How big (default 3)" in out
    assert "DEMO_KEY: A key (required)" in out
    assert "NATS_URL: " in out


def test_misspelt_argument_is_refused() -> None:
    """What is no argument ends the start."""
    assert _run("--chekc", **GOOD)[0] == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_service_in_order(number: signal.Signals) -> None:
    """A signal lets the service finish, and the process ends well; its life is in the log, and no secret."""
    with _process(**GOOD) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready 3\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "stopping\n")
    lines = _log(err)
    assert [line["event"] for line in lines] == ["service_starting", "service_stopped"]
    assert {(line["service"], line["server_id"]) for line in lines} == {("demo", "s1")}
    assert "hunter2" not in err


def test_second_signal_ends_the_service_at_once() -> None:
    """Whoever asks twice does not want to wait."""
    with _process(**GOOD, DEMO_SIZE="99") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "stopping\n"
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 40
    assert process.returncode == 0
    assert "service_stopped_at_once" in [line["event"] for line in _log(err)]


def test_crash_is_in_the_log() -> None:
    """A service that fails says why in its log, in the form of the log, and its status says so too."""
    status, _, err = _run(**GOOD, DEMO_SIZE="13")
    assert status == 1
    [_, crash] = _log(err)
    assert (crash["event"], crash["level"]) == ("service_crashed", "ERROR")
    assert "ValueError: bad luck" in crash["stack"]
