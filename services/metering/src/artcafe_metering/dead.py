"""Put aside what cannot be counted: into the stream USAGE_DEAD, once, in a form that can be put back.

| header | says |
|---|---|
| `Artcafe-Reason` | why |
| `Artcafe-Stream-Sequence` | where in USAGE it came from |
| `Artcafe-Subject` | on which subject it is to be published again |

What cannot be read at all is put aside as it came. Of a batch that can, only what is bad is, as a batch
again:

* Rows that break the contract. The others are counted under the batch's own name, so these get a name of
  their own (`batches.aside_name`).
* Rows of a tenant whose counters refuse them. They keep the batch's name, which is not marked as applied for
  all tenants: so they can be put back, and the others know that they have theirs.

The name in `Nats-Msg-Id` is made of the place and the content: a message that comes again, after its consumer
was made anew too, is neither stored nor told of a second time.
"""

from __future__ import annotations

import hashlib
import logging

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from artcafe_common.streams import USAGE
from artcafe_metering import metrics
from artcafe_metering.streams import DEAD_SUBJECT

logger = logging.getLogger(__name__)

REASON = "Artcafe-Reason"
PLACE = "Artcafe-Stream-Sequence"
SUBJECT = "Artcafe-Subject"
_REASON_MAX_LENGTH = 200


class DeadLetters:
    """The writing side of USAGE_DEAD."""

    def __init__(self, jetstream: JetStreamContext) -> None:
        self._jetstream = jetstream

    async def bury(self, message: Msg, data: bytes, subject: str, reason: str) -> bool:
        """Put aside a message, or what is bad of it; False where it could not be stored.

        `subject` is where `data` belongs, once it can be counted.
        """
        place = message.metadata.sequence.stream
        headers = {
            "Nats-Msg-Id": f"{USAGE.name}:{place}:{hashlib.sha256(data).hexdigest()[:32]}",
            REASON: "".join(char if char.isprintable() else " " for char in reason)[:_REASON_MAX_LENGTH],
            PLACE: str(place),
            SUBJECT: subject,
        }
        name = f"{DEAD_SUBJECT}.{message.subject.rpartition('.')[2]}"
        try:
            stored = await self._jetstream.publish(name, data, headers=headers)
        except (NatsError, TimeoutError) as error:
            logger.warning("usage_batch_not_buried", extra={"error": type(error).__name__})
            return False
        if not stored.duplicate:
            metrics.BATCHES.labels("dead").inc()
            logger.error("usage_batch_dead", extra={"reason": headers[REASON], "stream_sequence": place})
        return True
