"""Settings of the metering service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from artcafe_common.config import Secret, SharedConfig, describe
from artcafe_metering.periods import DAY_DAYS_MIN, HOUR_DAYS_MIN, MONTH_DAYS_MIN, Retention

PREFIX = "METERING_"


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
        int, msgspec.Meta(ge=HOUR_DAYS_MIN), describe("For how many days hourly figures are kept in Valkey")
    ] = 30
    days_kept_days: Annotated[
        int, msgspec.Meta(ge=DAY_DAYS_MIN), describe("For how many days daily figures are kept in Valkey")
    ] = 90
    months_kept_days: Annotated[
        int, msgspec.Meta(ge=MONTH_DAYS_MIN), describe("For how many days monthly figures are kept")
    ] = 400
    rolled_hours_kept_days: Annotated[
        int,
        msgspec.Meta(ge=HOUR_DAYS_MIN),
        describe("For how many days closed hours are kept in DynamoDB"),
    ] = 30
    rolled_days_kept_days: Annotated[
        int, msgspec.Meta(ge=DAY_DAYS_MIN), describe("For how many days closed days are kept in DynamoDB")
    ] = 400
    rounds: Annotated[
        int, msgspec.Meta(ge=1, le=64), describe("How many rounds of batches are applied side by side")
    ] = 16
    signing_key_file: Annotated[
        str | None,
        describe(
            "File of the Ed25519 key that signs exports, made if missing, the same for every replica; "
            "default: `export-signing.pem` in `ARTCAFE_STATE_DIR`; without either there are no exports"
        ),
    ] = None
    export_bucket: Annotated[str | None, describe("S3 bucket in which every export is kept")] = None
    backup_dir: Annotated[str | None, describe("Folder for backups of Valkey; not set, there are none")] = (
        None
    )
    backup_bucket: Annotated[
        str | None, describe("S3 bucket to which backups are uploaded, e.g. `artcafe-usage-backups`")
    ] = None
    backup_interval_minutes: Annotated[
        int, msgspec.Meta(ge=1), describe("How long after a backup the next one is made")
    ] = 60
    backup_kept_hours: Annotated[
        int, msgspec.Meta(ge=1), describe("How long backups stay in the folder; in the bucket whole days")
    ] = 48

    def signing_key_path(self) -> Path | None:
        """Return where the key is that signs exports; None where there is none."""
        if self.signing_key_file is not None:
            return Path(self.signing_key_file)
        return Path(self.artcafe_state_dir) / "export-signing.pem" if self.artcafe_state_dir else None

    def retention(self) -> Retention:
        """Return for how long what is kept."""
        return Retention(
            self.hours_kept_days,
            self.days_kept_days,
            self.months_kept_days,
            self.rolled_hours_kept_days,
            self.rolled_days_kept_days,
        )
