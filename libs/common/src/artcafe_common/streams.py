"""The JetStream streams that one service fills and another one owns, and how the owner makes sure of them.

Who may say what a stream is may have it copy any subject to any other: that is the owner alone. Whoever
publishes to a stream waits for it.
"""

from __future__ import annotations

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import BadRequestError, NotFoundError

_DAY_SECONDS = 86_400.0
_STREAM_NAME_IN_USE = 10058

# Owned by metering. Batches are kept after they were applied, so that a period can be recounted from them.
USAGE = StreamConfig(
    name="USAGE",
    description="Usage batches from gateways and REST services, for metering",
    subjects=["usage.v1.batch.*"],
    retention=RetentionPolicy.LIMITS,
    storage=StorageType.FILE,
    discard=DiscardPolicy.OLD,
    max_age=7 * _DAY_SECONDS,
    duplicate_window=600.0,
)

# Owned by registry. The last presence of each agent: who was away when it changed reads it here.
PRESENCE = StreamConfig(
    name="PRESENCE",
    description="The last presence event of each agent",
    subjects=["gateway.v1.presence.>"],
    retention=RetentionPolicy.LIMITS,
    storage=StorageType.FILE,
    discard=DiscardPolicy.OLD,
    max_msgs_per_subject=1,
    max_age=_DAY_SECONDS,
)


async def ensure_stream(jetstream: JetStreamContext, wanted: StreamConfig, replicas: int = 1) -> None:
    """Create a stream, or bring an existing one to the wanted settings; several replicas may do so at once.

    An existing stream never loses replicas: one set to fewer by mistake takes none away.
    """
    config = wanted.evolve(num_replicas=replicas)
    assert config.name is not None
    try:
        existing = await jetstream.stream_info(config.name)
    except NotFoundError:
        try:
            await jetstream.add_stream(config)
        except BadRequestError as error:
            if error.err_code != _STREAM_NAME_IN_USE:
                raise
    else:
        kept = max(replicas, existing.config.num_replicas or 1)
        await jetstream.update_stream(config.evolve(num_replicas=kept))
