"""Settings of the metering service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from artcafe_common.config import ConfigError, Secret, SharedConfig, describe
from artcafe_metering.periods import DAY_DAYS_MIN, HOUR_DAYS_MIN, MONTH_DAYS_MIN, Retention

PREFIX = "METERING_"


class CommandConfig(SharedConfig, frozen=True, kw_only=True):
    """What the commands for tables and buckets need: neither NATS nor Valkey."""

    nats_url: Annotated[str, describe("NATS servers, separated by commas, e.g. `nats://127.0.0.1:4222`")] = ""
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
        describe("For how many days closed hours are kept in DynamoDB, at least as long as in Valkey"),
    ] = 30
    rolled_days_kept_days: Annotated[
        int,
        msgspec.Meta(ge=DAY_DAYS_MIN),
        describe("For how many days closed days are kept in DynamoDB, at least as long as in Valkey"),
    ] = 400
    plan_hours: Annotated[
        tuple[str, ...],
        describe("For how many days single plans keep closed hours, in both, e.g. `free=9,enterprise=90`"),
    ] = ("enterprise=90",)
    plan_days: Annotated[
        tuple[str, ...],
        describe("For how many days single plans keep closed days, in both, e.g. `free=40,enterprise=1100`"),
    ] = ("enterprise=1100",)
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
    retired_keys: Annotated[
        str | None,
        describe(
            "Folder with the public halves of former keys of exports, which are told beside the one in use: "
            "files `*.json` as `/usage/export/keys.json` has told them; default: `export-keys` in "
            "`ARTCAFE_STATE_DIR`, where there is one"
        ),
    ] = None
    export_bucket: Annotated[str | None, describe("S3 bucket in which every export is kept")] = None
    exports_per_hour: Annotated[
        int,
        msgspec.Meta(ge=1),
        describe("How many exports a tenant may ask of each replica, eight of them at once"),
    ] = 60
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

    def __post_init__(self) -> None:
        """Refuse what cannot work. Raises: ConfigError."""
        super().__post_init__()
        self.hours_by_plan()
        self.days_by_plan()

    def hours_by_plan(self) -> dict[str, int]:
        """Return for how many days closed hours are kept, for the plans that differ in that."""
        return _by_plan("METERING_PLAN_HOURS", self.plan_hours, HOUR_DAYS_MIN)

    def days_by_plan(self) -> dict[str, int]:
        """Return for how many days closed days are kept, for the plans that differ in that."""
        return _by_plan("METERING_PLAN_DAYS", self.plan_days, DAY_DAYS_MIN)

    def hours_in_valkey(self) -> int:
        """Return for how many days every tenant's hours are in Valkey, whatever its plan."""
        return min([self.hours_kept_days, *self.hours_by_plan().values()])

    def signing_key_path(self) -> Path | None:
        """Return where the key is that signs exports; None where there is none."""
        if self.signing_key_file is not None:
            return Path(self.signing_key_file)
        return Path(self.artcafe_state_dir) / "export-signing.pem" if self.artcafe_state_dir else None

    def retired_keys_path(self) -> Path | None:
        """Return where the public halves of former keys of exports are; None where there are none."""
        if self.retired_keys is not None:
            return Path(self.retired_keys)
        folder = Path(self.artcafe_state_dir) / "export-keys" if self.artcafe_state_dir else None
        return folder if folder is not None and folder.is_dir() else None

    def retention(self) -> Retention:
        """Return for how long what is kept."""
        return Retention(
            self.hours_kept_days,
            self.days_kept_days,
            self.months_kept_days,
            self.rolled_hours_kept_days,
            self.rolled_days_kept_days,
        )


class MeteringConfig(CommandConfig, frozen=True, kw_only=True):
    """Settings of the metering service; names as in the environment, without the prefix ``METERING_``."""

    nats_url: Annotated[str, describe("NATS servers, separated by commas, e.g. `nats://127.0.0.1:4222`")]
    redis_url: Annotated[
        Secret, describe("Valkey with its password, e.g. `redis://:secret@127.0.0.1:6379/0`")
    ]


def _by_plan(name: str, entries: tuple[str, ...], least: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in entries:
        plan, _, days = entry.partition("=")
        if not plan or plan in found or not days.isdecimal() or int(days) < least:
            problem = f"{entry!r}: expected plan=days once for a plan, at least {least}"
            raise ConfigError([f"{name} is not valid: {problem}"])
        found[plan] = int(days)
    return found
