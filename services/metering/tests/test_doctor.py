"""How metering's doctor judges Valkey, the backlog and backups."""

from __future__ import annotations

from typing import Any

import pytest

from artcafe_common.doctor import Findings
from artcafe_metering.doctor import judge_backlog, judge_backups, judge_valkey

NOW = 1_000_000.0


def _valkey(info: dict[str, Any] | None = None, **settings: str) -> list[tuple[str, str]]:
    known: dict[str, Any] = {
        "valkey_version": "9.1.2",
        "loading": 0,
        "aof_enabled": 1,
        "aof_last_write_status": "ok",
        "aof_last_bgrewrite_status": "ok",
        "rdb_last_bgsave_status": "ok",
        "rdb_last_save_time": NOW - 600,
        "used_memory": 104_857_600,
    }
    asked = {
        "appendfsync": "everysec",
        "no-appendfsync-on-rewrite": "no",
        "maxmemory-policy": "noeviction",
        "maxmemory": "402653184",
    }
    found = Findings("valkey")
    judge_valkey(found, known | (info or {}), asked | settings, NOW)
    assert all(each.cure for each in found.listed if each.status != "ok")
    return [(each.status, each.detail) for each in found.listed]


def test_a_valkey_as_it_should_be_is_one_line() -> None:
    """Version, syncing, the last snapshot and the room are told."""
    assert _valkey() == [
        ("ok", "version 9.1.2, appendfsync everysec, last snapshot 10 min ago, 100 MB used of 384")
    ]


@pytest.mark.parametrize(
    ("info", "settings", "status", "words"),
    [
        ({"aof_enabled": 0}, {}, "fail", "keeps no append-only file"),
        ({"aof_last_write_status": "err"}, {}, "fail", "cannot write"),
        ({"aof_last_bgrewrite_status": "err"}, {}, "warn", "rewrite"),
        ({"rdb_last_bgsave_status": "err"}, {}, "warn", "snapshot"),
        ({"loading": 1}, {}, "warn", "reading"),
        ({"used_memory": 390_000_000}, {}, "warn", "nearly full"),
        ({}, {"appendfsync": "no"}, "fail", "to chance"),
        ({}, {"no-appendfsync-on-rewrite": "yes"}, "fail", "to chance"),
        ({}, {"maxmemory-policy": "allkeys-lru"}, "fail", "allkeys-lru"),
    ],
)
def test_what_would_lose_usage_is_told(
    info: dict[str, Any], settings: dict[str, str], status: str, words: str
) -> None:
    """Each way in which Valkey can lose or refuse what was counted is a line of its own."""
    ((found, detail),) = _valkey(info, **settings)
    assert found == status and words in detail


@pytest.mark.parametrize(
    ("waiting", "status"), [(0, "ok"), (1_000, "ok"), (1_001, "warn"), (100_001, "fail")]
)
def test_a_backlog_that_grows_is_told(waiting: int, status: str) -> None:
    """Some batches always wait; many do only where nobody works them off."""
    found = Findings("backlog")
    judge_backlog(found, waiting)
    assert [each.status for each in found.listed] == [status]


@pytest.mark.parametrize(
    ("age", "status"), [(None, "warn"), (60.0, "ok"), (7_100.0, "ok"), (7_300.0, "fail")]
)
def test_a_backup_that_is_too_old_is_a_fault(age: float | None, status: str) -> None:
    """One that was left out may be chance; two are not."""
    found = Findings("backups")
    judge_backups(found, "s3://b", None if age is None else NOW - age, 1, NOW, 3600.0)
    assert [each.status for each in found.listed] == [status]
