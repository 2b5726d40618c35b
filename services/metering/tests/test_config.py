from __future__ import annotations

import pytest

from artcafe_common.config import ConfigError, Secret, load
from artcafe_metering.config import PREFIX, MeteringConfig

BASE = {"NATS_URL": "nats://n", "REDIS_URL": "redis://:secret@v/0"}


def test_defaults_are_those_of_the_documentation() -> None:
    """Two addresses are all that has to be set."""
    config = load(MeteringConfig, PREFIX, BASE)
    assert config.redis_url == Secret("redis://:secret@v/0")
    assert "secret" not in repr(config)
    assert (config.http_host, config.http_port, config.waitaof) == ("127.0.0.1", 8103, True)
    assert (config.hours_kept_days, config.days_kept_days, config.months_kept_days) == (30, 90, 400)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", ""),
        ("NATS_URL", ""),
        ("METERING_HTTP_PORT", "0"),
        ("METERING_HTTP_PORT", "x"),
        ("METERING_WAITAOF", "maybe"),
        ("METERING_HOURS_KEPT_DAYS", "8"),
        ("METERING_DAYS_KEPT_DAYS", "39"),
        ("METERING_MONTHS_KEPT_DAYS", "61"),
        ("METERING_ROLLED_HOURS_KEPT_DAYS", "8"),
        ("METERING_ROLLED_DAYS_KEPT_DAYS", "39"),
        ("METERING_PLAN_DAYS", "pro"),
        ("METERING_PLAN_DAYS", "free=39"),
        ("METERING_PLAN_DAYS", "free=90,=90"),
        ("METERING_PLAN_DAYS", "free=90,free=91"),
        ("METERING_PLAN_HOURS", "free=8"),
        ("METERING_ROUNDS", "0"),
        ("METERING_REDIS_URL", "redis://v"),
    ],
)
def test_wrong_settings_are_named(name: str, value: str) -> None:
    """Every setting that is missing, misspelt or out of range is told by its name."""
    with pytest.raises(ConfigError) as caught:
        load(MeteringConfig, PREFIX, BASE | {name: value})
    assert [problem for problem in caught.value.problems if problem.startswith(name)]


def test_plans_keep_days_for_their_own_time() -> None:
    """Those that are named have their own, all others what is set for all."""
    assert load(MeteringConfig, PREFIX, BASE).days_by_plan() == {"enterprise": 1100}
    config = load(MeteringConfig, PREFIX, BASE | {"METERING_PLAN_DAYS": "free=90, pro=500"})
    assert config.days_by_plan() == {"free": 90, "pro": 500}


def test_no_plan_takes_batches_of_hours_that_another_has_forgotten() -> None:
    """A batch may be as old as the hours of the plan that keeps them shortest are in Valkey."""
    assert load(MeteringConfig, PREFIX, BASE).hours_in_valkey() == 30
    assert load(MeteringConfig, PREFIX, BASE | {"METERING_PLAN_HOURS": ""}).hours_in_valkey() == 30
    config = load(MeteringConfig, PREFIX, BASE | {"METERING_PLAN_HOURS": "free=9,pro=20"})
    assert config.hours_in_valkey() == 9
    assert config.hours_by_plan() == {"free": 9, "pro": 20}
