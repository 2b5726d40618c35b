"""Metrics of the metering service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

BATCHES = Counter(
    "artcafe_metering_batches_total",
    "Usage batches by what became of them: applied, repeated, retried or dead",
    ["outcome"],
)
MESSAGES = Counter("artcafe_metering_messages_total", "Messages accounted for")
GAPS = Counter(
    "artcafe_metering_missing_batches_total", "Batches that a source numbered but that never came, given up"
)
ROUND_SECONDS = Histogram(
    "artcafe_metering_round_seconds", "Time to apply a round of batches and have it on disk", unit="seconds"
)
BACKLOG = Gauge("artcafe_metering_backlog_batches", "Batches in the stream that were not delivered yet")
ROLLUPS = Counter(
    "artcafe_metering_rollups_total",
    "Closed hours and days by what became of them: closed, adjusted, unchanged, shrunk or failed",
    ["outcome"],
)
ROLLUP_LAG = Gauge(
    "artcafe_metering_rollup_lag_seconds",
    "For how long the oldest period that is not rolled up has been closed",
    unit="seconds",
)
BACKUP_FAILURES = Counter(
    "artcafe_metering_backup_failures_total", "Backups of Valkey that did not come about"
)
BACKUP_LAST = Gauge(
    "artcafe_metering_backup_last_timestamp_seconds",
    "When this replica made its last backup of Valkey",
    unit="seconds",
)
RECONCILE_DIFFERENCE = Gauge(
    "artcafe_metering_reconcile_difference",
    "How far counters and batches of the last compared day are apart, added up over all tenants",
    ["figure"],
)
