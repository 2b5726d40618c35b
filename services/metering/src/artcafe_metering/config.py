"""Settings of the metering service."""

from __future__ import annotations

from typing import Annotated

import msgspec

from artcafe_common.config import Secret, SharedConfig, describe

PREFIX = "METERING_"

# A batch may arrive as late as the stream keeps it (7 days): no counter may be gone by then.
_HOUR_DAYS_MIN = 9
_DAY_DAYS_MIN = 40
_MONTH_DAYS_MIN = 62


class MeteringConfig(SharedConfig, frozen=True, kw_only=True):
    """Settings of the metering service; names as in the environment, without the prefix ``METERING_``."""

    redis_url: Annotated[
        Secret, describe("Valkey with its password, e.g. `redis://:secret@127.0.0.1:6379/0`")
    ]
    http_host: Annotated[str, describe("Address on which REST is served")] = "127.0.0.1"
    http_port: Annotated[int, msgspec.Meta(ge=1, le=65535), describe("Port on which REST is served")] = 8103
    waitaof: Annotated[
        bool,
        describe(
            "Acknowledge a batch only when Valkey has it on disk; off, a crash of Valkey's host loses usage"
        ),
    ] = True
    hours_kept_days: Annotated[
        int, msgspec.Meta(ge=_HOUR_DAYS_MIN), describe("For how many days hourly figures are kept")
    ] = 30
    days_kept_days: Annotated[
        int, msgspec.Meta(ge=_DAY_DAYS_MIN), describe("For how many days daily figures are kept")
    ] = 90
    months_kept_days: Annotated[
        int, msgspec.Meta(ge=_MONTH_DAYS_MIN), describe("For how many days monthly figures are kept")
    ] = 400
    rounds: Annotated[
        int, msgspec.Meta(ge=1, le=64), describe("How many rounds of batches are applied side by side")
    ] = 16
