"""Names of the registry's own metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

STORE_CONFLICTS = Counter(
    "artcafe_registry_store_conflicts_total", "Transactions that met another one and were tried again"
)
CACHE_READS = Counter("artcafe_registry_cache_reads_total", "Cached reads by outcome", ["kind", "outcome"])
CHANGES_NOT_TOLD = Counter("artcafe_registry_changes_not_told_total", "Change events that NATS did not take")
PRESENCE_EVENTS = Counter(
    "artcafe_registry_presence_events_total", "Presence events by what became of them", ["outcome"]
)
PENDING_WORK = Gauge("artcafe_registry_pending_work", "Deletions, revocations and updates not finished yet")
MESSAGES = Counter(
    "artcafe_registry_messages_total", "Messages published by REST by what became of them", ["outcome"]
)
