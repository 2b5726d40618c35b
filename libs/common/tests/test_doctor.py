"""How a service's doctor judges what it sees, and how it says so."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from artcafe_common import __version__
from artcafe_common.doctor import Check, Findings, Surroundings, checks, run_doctor
from artcafe_common.doctor.checks import ahead_by, judge_folder, judge_skew, judge_stream
from artcafe_common.table_commands import TablesConfig


@pytest.mark.parametrize(
    ("offset", "status"), [(0.5, "ok"), (-1.9, "ok"), (5.0, "warn"), (-5.0, "warn"), (11.0, "fail")]
)
def test_clocks_are_judged_by_what_tokens_allow(offset: float, status: str) -> None:
    """A clock that is off is told long before tokens are refused for it, and in which direction."""
    found = Findings("clock")
    judge_skew(found, "NATS", offset)
    (finding,) = found.listed
    assert finding.status == status
    if status != "ok":
        assert ("behind" in finding.detail) == (offset < 0) and finding.cure


@pytest.mark.parametrize(
    ("before", "after", "earliest", "latest", "ahead"),
    [
        (100.0, 100.1, 100.05, 100.05, 0.0),
        (100.0, 107.0, 106.9, 106.9, 0.0),  # its way there was long
        (100.0, 107.0, 100.1, 100.1, 0.0),  # its way back was
        (100.0, 100.5, 99.0, 100.0, 0.0),  # whole seconds
        (105.0, 105.1, 100.0, 100.0, 5.0),
        (105.0, 105.5, 100.0, 101.0, 4.0),
        (100.0, 107.0, 110.0, 110.0, -3.0),
    ],
)
def test_an_answer_that_takes_long_makes_no_clock_wrong(
    before: float, after: float, earliest: float, latest: float, ahead: float
) -> None:
    """A clock is off by what cannot be the time that a question and its answer took."""
    assert ahead_by(before, after, earliest, latest) == ahead


def _stream(**changes: Any) -> dict[str, Any]:
    config = {"name": "USAGE", "storage": "file", "num_replicas": 3} | changes.pop("config", {})
    replicas = [{"name": "nats-1", "current": True}, {"name": "nats-2", "current": True}]
    cluster = {"leader": "nats-0", "replicas": replicas} | changes.pop("cluster", {})
    return {"config": config, "cluster": cluster, "state": {"messages": 2, "bytes": 1_048_576}} | changes


@pytest.mark.parametrize(
    ("info", "status", "words"),
    [
        (_stream(), "ok", "USAGE on 3 servers, 2 messages, 1.0 MB"),
        (_stream(config={"storage": "memory"}), "fail", "kept in memory"),
        (_stream(cluster={"leader": ""}), "fail", "no leader"),
        (_stream(config={"num_replicas": 1}), "warn", "on 1 servers, not 3"),
        (
            _stream(cluster={"replicas": [{"name": "nats-2", "current": False}]}),
            "warn",
            "nats-2 does not follow",
        ),
        (
            _stream(cluster={"replicas": [{"name": "n", "current": True, "offline": True}]}),
            "warn",
            "n does not",
        ),
    ],
)
def test_a_stream_is_judged_by_how_it_is_kept(info: dict[str, Any], status: str, words: str) -> None:
    """In memory, on too few servers, without a leader, with a copy that lags: each is told."""
    found = Findings("streams")
    judge_stream(found, info, 3)
    assert words in next(each.detail for each in found.listed if each.status == status)


def test_a_folder_must_be_writable_and_have_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a process keeps what must survive, it can write, and there is room."""
    found = Findings("state")
    judge_folder(found, str(tmp_path))
    judge_folder(found, str(tmp_path / "missing"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: argparse.Namespace(free=1, total=100))
    judge_folder(found, str(tmp_path))
    assert [each.status for each in found.listed][1:] == ["fail", "warn"]


@pytest.mark.parametrize(("answers", "status"), [("du", "ok"), ("dd", "fail"), ("u", "ok")])
async def test_what_is_away_for_a_moment_only_is_no_fault(
    answers: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that is not ready is asked once more before that is told."""
    monkeypatch.setattr(checks, "LOOK_AGAIN_SECONDS", 0.0)
    left = iter(answers)

    def get(*_: Any) -> bytes:
        word = {"u": "up", "d": "down"}[next(left)]
        dependencies = [{"name": "nats", "status": word}]
        return json.dumps({"status": word, "version": __version__, "dependencies": dependencies}).encode()

    monkeypatch.setattr(checks, "_get", get)
    found = Findings("service")
    await Surroundings("demo", TablesConfig()).process("127.0.0.1", 1, found)
    assert [each.status for each in found.listed] == [status]
    assert list(left) == []


def test_what_a_check_raises_is_a_fault_without_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A check that breaks does not hide the others, and what it says may hold a password."""

    async def breaks(_: Findings) -> None:
        raise OSError("redis://:secret@valkey")

    async def works(found: Findings) -> None:
        found.warn("is nearly so", "do this")

    def examine(_: Surroundings) -> dict[str, Check]:
        return {"first": breaks, "second": works}

    code = run_doctor("demo", argparse.Namespace(json=True), TablesConfig(), examine)
    printed = capsys.readouterr().out
    report = json.loads(printed)
    assert code == 1 and "secret" not in printed and report["service"] == "demo"
    assert [(f["check"], f["status"]) for f in report["findings"]] == [("first", "fail"), ("second", "warn")]

    assert run_doctor("demo", argparse.Namespace(json=False), TablesConfig(), lambda _: {"x": works}) == 0
    assert capsys.readouterr().out.splitlines() == [
        "warn  x           is nearly so",
        "                  cure: do this",
    ]
