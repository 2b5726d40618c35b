"""The publishing side of metering: count in memory and on disk, and send until it is acknowledged.

A batch is named by (source, seq) for ever, so metering can tell a repetition from a new one. Rows belong to
the hour in which their messages were accepted. `counter` adds up, `counter_file` mirrors what it has into a
mapped file, `reporter` sends it, and `leftovers` finds what processes that were killed have left behind.
"""

from __future__ import annotations

import logging

from artcafe_common import metrics
from artcafe_common.clock import Clock
from artcafe_common.config import SharedConfig
from artcafe_common.usage.counter import HOUR_SECONDS, Meter, Tally, UsageCounter
from artcafe_common.usage.counter_file import ROW_BYTES, open_counter_file
from artcafe_common.usage.reporter import UsageReporter

__all__ = [
    "HOUR_SECONDS",
    "Meter",
    "Tally",
    "UsageCounter",
    "UsageReporter",
    "open_usage_counter",
]

logger = logging.getLogger(__name__)

_MIB = 1024 * 1024


def open_usage_counter(config: SharedConfig, clock: Clock) -> UsageCounter:
    """Return the counter of this process, with its file where the configuration names a folder.

    Raises: StartError where that folder is no use.
    """
    rows_max = config.usage_spool_mib * _MIB // ROW_BYTES
    if config.artcafe_state_dir is None:
        # It would be worse to serve nobody: what is lost is the last second of a process that is killed.
        logger.warning("usage_in_memory_only", extra={"reason": "ARTCAFE_STATE_DIR is not set"})
        return UsageCounter(clock, rows_max=rows_max)
    metrics.USAGE_DURABLE.set(1)
    return UsageCounter(clock, open_counter_file(config.artcafe_state_dir, clock), rows_max=rows_max)
