"""Metrics of the metering service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

BATCHES = Counter(
    "artcafe_metering_batches_total",
    "Usage batches by what became of them: applied, repeated, retried, or dead, in whole or in part",
    ["outcome"],
)
MESSAGES = Counter("artcafe_metering_messages_total", "Messages accounted for")
GAPS = Counter(
    "artcafe_metering_missing_batches_total", "Batches that a source numbered but that never came, given up"
)
FLOOR_LAG = Gauge(
    "artcafe_metering_floor_lag_seconds",
    "For how long a batch has been missing before others of its source that were applied; 0 where none is",
    unit="seconds",
)
ROUND_SECONDS = Histogram(
    "artcafe_metering_round_seconds", "Time to apply a round of batches and have it on disk", unit="seconds"
)
BACKLOG = Gauge("artcafe_metering_backlog_batches", "Batches in the stream that were not delivered yet")
OUT = Gauge(
    "artcafe_metering_unacknowledged_batches",
    "Batches that were delivered and are not done: being applied, or refused",
)
OLDEST_AGE = Gauge(
    "artcafe_metering_oldest_batch_age_seconds",
    "For how long the oldest batch that is not counted has been in the stream",
    unit="seconds",
)
ROLLUPS = Counter(
    "artcafe_metering_rollups_total",
    "Closed hours and days by what became of them: closed, adjusted, unchanged, shrunk or failed",
    ["outcome"],
)
ROLLUP_LAG = Gauge(
    "artcafe_metering_rollup_lag_seconds",
    "For how long the oldest period that is not rolled up has been closed, or that was last looked at",
    unit="seconds",
)
COUNTERS_SINCE = Gauge(
    "artcafe_metering_counters_since_timestamp_seconds",
    "When the counters began anew, after those before them were lost; 0 where none ever were",
    unit="seconds",
)
BACKUP_FAILURES = Counter(
    "artcafe_metering_backup_failures_total", "Backups of Valkey that did not come about"
)
BACKUP_LAST = Gauge(
    "artcafe_metering_backup_last_timestamp_seconds",
    "When the last backup that this replica knows of was made; where there is a bucket, of those in it",
    unit="seconds",
)
RECONCILE_DIFFERENCE = Gauge(
    "artcafe_metering_reconcile_difference",
    "How far counters and batches are apart in the days that can still be recounted, added up over all "
    "tenants, agents or channels; every replica shows what is stored",
    ["figure", "scope"],
)
RECONCILE_LAG = Gauge(
    "artcafe_metering_reconcile_lag_seconds",
    "For how long the oldest day that was not compared since it was last counted for has been closed",
    unit="seconds",
)
VALKEY_MEMORY = Gauge("artcafe_metering_valkey_memory_bytes", "Memory that Valkey uses", unit="bytes")
VALKEY_MEMORY_MAX = Gauge(
    "artcafe_metering_valkey_memory_max_bytes",
    "Memory that Valkey may use, after which it takes nothing more; 0: no limit",
    unit="bytes",
)
COPIES_MISSING = Gauge(
    "artcafe_metering_stream_copies_missing",
    "On how many servers of NATS that should have it the stream of usage is not, or does not follow",
)
