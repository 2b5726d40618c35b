"""The streams and the consumer that metering owns."""

from __future__ import annotations

from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

# Longer than a round takes (`durability.GIVE_UP_SECONDS`), and what a killed replica had in hand is not
# away for long.
ACK_WAIT_SECONDS = 12.0
ACK_PENDING_MAX = 16_384

# One durable consumer for all replicas. Made anew, it starts at the beginning of the stream: what was applied
# is known and not counted again.
CONSUMER = ConsumerConfig(
    durable_name="metering",
    description="Applies usage batches to the counters",
    deliver_policy=DeliverPolicy.ALL,
    ack_policy=AckPolicy.EXPLICIT,
    ack_wait=ACK_WAIT_SECONDS,
    max_deliver=-1,
    max_ack_pending=ACK_PENDING_MAX,
    filter_subject="usage.v1.batch.*",
)

# What could not be counted, for a person to look at and to put back (`dead.py`, `requeue.py`).
USAGE_DEAD = StreamConfig(
    name="USAGE_DEAD",
    description="Usage that could not be counted, put aside by metering",
    subjects=["usage.v1.dead.>"],
    retention=RetentionPolicy.LIMITS,
    storage=StorageType.FILE,
    discard=DiscardPolicy.OLD,
    max_age=30 * 86_400.0,
    max_bytes=256 * 1024 * 1024,
    # As long as USAGE keeps what may come again.
    duplicate_window=7 * 86_400.0,
)
DEAD_SUBJECT = "usage.v1.dead"
