"""Log lines."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from artcafe_common.config import Secret
from artcafe_common.log import JsonFormatter, Repeats, request_id_var, setup_logging

from .support import FrozenClock


class Logged:
    """A logger and the lines it has written."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.logger = logging.Logger("artcafe_demo")
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(JsonFormatter("demo", "s1"))
        self.logger.addHandler(handler)

    @property
    def line(self) -> dict[str, Any]:
        """The only line, decoded."""
        line, end = self.stream.getvalue().split("\n")
        assert not end
        decoded: dict[str, Any] = json.loads(line)
        return decoded


@pytest.fixture
def logged() -> Logged:
    """An empty log."""
    return Logged()


def test_record_is_one_line_of_json(logged: Logged) -> None:
    """A record says when, what, from where, and has its fields beside these."""
    logged.logger.info(
        "session_closed", extra={"tenant_id": "t1", "code": 1012, "seconds": 1.5, "none": None}
    )
    line = logged.line
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO",
        "event": "session_closed",
        "logger": "artcafe_demo",
        "service": "demo",
        "server_id": "s1",
        "tenant_id": "t1",
        "code": 1012,
        "seconds": 1.5,
        "none": None,
    }


def test_text_of_others_is_formatted(logged: Logged) -> None:
    """Libraries that format their texts are logged as well."""
    logged.logger.warning("%s of %d", "one", 2)
    assert logged.line["event"] == "one of 2"


def test_line_ends_in_a_value_make_no_second_line(logged: Logged) -> None:
    """Nobody can write a line of their own into the log."""
    logged.logger.info("event\n{}", extra={"user": 'x\n{"level":"ERROR"}\r'})
    assert logged.line["user"].startswith("x\n")


def test_request_id_is_in_the_line_of_its_request(logged: Logged) -> None:
    """Lines of one request are found by its id."""
    token = request_id_var.set("request-1")
    try:
        logged.logger.info("event")
    finally:
        request_id_var.reset(token)
    assert logged.line["request_id"] == "request-1"


def test_without_a_request_there_is_no_request_id(logged: Logged) -> None:
    """Lines of no request have no such field."""
    logged.logger.info("event")
    assert "request_id" not in logged.line


def test_exception_is_logged_with_its_stack(logged: Logged) -> None:
    """An unexpected exception has its stack in one field."""
    try:
        raise ValueError("a bug")
    except ValueError:
        logged.logger.exception("failed")
    assert "ValueError: a bug" in logged.line["stack"]
    assert "Traceback" in logged.line["stack"]


def test_secret_is_not_shown(logged: Logged) -> None:
    """A secret that is given to the logger by mistake stays one, also inside of something."""
    logged.logger.info("event %s", Secret("hunter2"), extra={"password": Secret("hunter2")})
    logged.stream.write("\n")
    logged.logger.info("event", extra={"config": {"password": [Secret("hunter2")]}})
    assert "hunter2" not in logged.stream.getvalue()
    assert logged.stream.getvalue().count("Secret(***)") == 3


@pytest.mark.parametrize(
    "value", ["\ud800", float("nan"), {1, 2}, object(), {object(): 1}, ValueError("x"), b"\xff"]
)
def test_value_that_json_cannot_hold_does_not_cost_the_line(
    logged: Logged, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a field holds, the line is written."""
    logged.logger.info("event", extra={"value": value})
    assert logged.line["event"] == "event"
    assert "Logging error" not in capsys.readouterr().err


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, left as it was found."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = handlers, level


def test_process_logs_to_standard_error(root_logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    """All logging of a process is JSON lines on standard error, from the level that was set."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    setup_logging("demo", "s1", "warning")
    logging.getLogger("anything").info("too quiet")
    logging.getLogger("anything").error("heard")
    [line] = stream.getvalue().splitlines()
    assert json.loads(line)["event"] == "heard"


def test_chatty_libraries_are_quiet(root_logger: logging.Logger) -> None:
    """What libraries say of each call is not logged, even when debugging."""
    setup_logging("demo", "s1", "DEBUG")
    for name in ("botocore", "botocore.hooks", "aiobotocore.httpsession", "urllib3"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)
    assert not logging.getLogger("nats.aio.client").isEnabledFor(logging.ERROR)
    root_logger.setLevel(logging.WARNING)


def test_repeated_event_is_due_once_in_a_pause() -> None:
    """What repeats itself is let through now and then, with how often it was held back."""
    clock = FrozenClock()
    repeats = Repeats(10, clock)
    assert [repeats.due("a"), repeats.due("a"), repeats.due("a"), repeats.due("b")] == [0, None, None, 0]
    clock.move(10)
    assert [repeats.due("a"), repeats.due("b")] == [2, 0]
    assert repeats.due("a") is None


def test_repeats_are_remembered_in_bounded_memory() -> None:
    """Keys without end do not use memory without end."""
    repeats = Repeats(10, FrozenClock())
    for number in range(5_000):
        repeats.due(str(number))
    assert len(repeats._logged_at) <= 1_000
