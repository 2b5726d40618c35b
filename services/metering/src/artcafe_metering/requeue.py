"""Put back into the stream what was put aside (USAGE_DEAD), once its cause was mended.

Each goes back under the name by which it is known: however often it is put back, and if it was counted
meanwhile from its first place in the stream, it counts once. Only then is it taken out of USAGE_DEAD. What
this version cannot read either stays there: it would be put aside again. So does what may have been counted
where that is forgotten: metering remembers a batch for 15 days (`ledger.py`), and reads the stream from its
beginning only where its consumer was made anew.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo
from nats.js.errors import NotFoundError

from artcafe_common.errors import unavailable
from artcafe_common.streams import USAGE
from artcafe_metering.batches import PoisonError, read_batch
from artcafe_metering.commands import WINDOW_LIFETIME
from artcafe_metering.dead import REASON, SUBJECT
from artcafe_metering.streams import CONSUMER, DEAD_SUBJECT, USAGE_DEAD

_BATCH_SUBJECT = "usage.v1.batch"
_REMEMBERED_SECONDS = (WINDOW_LIFETIME - timedelta(days=1)).total_seconds()
_FORGOTTEN = "the stream was read anew since, and whether it was counted then is forgotten"


@dataclass(frozen=True, slots=True)
class Dead:
    """A message that was put aside: its place in USAGE_DEAD, when and why, and what it would be now.

    `name` is ``source:seq`` where it can be read by now; else `problem` says why not.
    """

    place: int
    stored_at: datetime | None
    reason: str
    subject: str
    data: bytes
    name: str = ""
    problem: str = ""


async def dead(jetstream: JetStreamContext, oldest: float, now: float) -> AsyncIterator[Dead]:
    """Yield what was put aside, oldest first; `oldest` is the earliest time for which counters are kept.

    Raises: ServiceError ``unavailable``.
    """
    assert USAGE_DEAD.name is not None
    place, read_since = 1, await _read_since(jetstream)
    while True:
        try:
            message = await jetstream.get_msg(
                USAGE_DEAD.name, seq=place, subject=f"{DEAD_SUBJECT}.>", next=True
            )
        except NotFoundError:
            return
        except (NatsError, TimeoutError):
            raise unavailable("message bus") from None
        assert message.seq is not None
        headers, data = message.headers or {}, message.data or b""
        # Of those that an older version has put aside only the source is known.
        subject = headers.get(SUBJECT) or f"{_BATCH_SUBJECT}.{(message.subject or '').rpartition('.')[2]}"
        name = problem = ""
        try:
            batch = read_batch(subject, data, oldest, now)
        except PoisonError as poison:
            problem = poison.reason
        else:
            name, problem = f"{batch.source}:{batch.seq}", batch.aside.reason if batch.aside else ""
            stored = message.time.timestamp() if message.time else 0.0
            if not problem and stored < min(now - _REMEMBERED_SECONDS, read_since):
                problem = _FORGOTTEN
        yield Dead(message.seq, message.time, headers.get(REASON, ""), subject, data, name, problem)
        place = message.seq + 1


async def _read_since(jetstream: JetStreamContext) -> float:
    """Return since when the stream is read, epoch seconds. Raises: ServiceError ``unavailable``."""
    assert USAGE.name is not None and CONSUMER.durable_name is not None
    try:
        info: ConsumerInfo = await jetstream.consumer_info(USAGE.name, CONSUMER.durable_name)
    except NotFoundError:
        return math.inf
    except (NatsError, TimeoutError):
        raise unavailable("message bus") from None
    return info.created.timestamp()


async def put_back(jetstream: JetStreamContext, message: Dead) -> None:
    """Publish a message again, and take it out of USAGE_DEAD. Raises: ServiceError ``unavailable``."""
    assert USAGE_DEAD.name is not None
    # Not the batch's own name: the stream knows that one for some minutes, and would not take it.
    headers = {"Nats-Msg-Id": f"{message.name}:{USAGE_DEAD.name}:{message.place}"}
    try:
        await jetstream.publish(message.subject, message.data, stream=USAGE.name, headers=headers)
        await jetstream.delete_msg(USAGE_DEAD.name, message.place)
    except NotFoundError:
        # Somebody else has done the same.
        return
    except (NatsError, TimeoutError):
        raise unavailable("message bus") from None


async def requeue(
    jetstream: JetStreamContext, oldest: float, now: float, say: Callable[[str], None], *, really: bool
) -> int:
    """List what was put aside and, if `really`, put back what can be read; return how many stay.

    Raises: ServiceError ``unavailable``; what is not put back by then is so by the same command.
    """
    ready = left = 0
    async for message in dead(jetstream, oldest, now):
        when = f"{message.stored_at:%Y-%m-%dT%H:%M:%SZ}" if message.stored_at else "?"
        head = f"{message.place}  {when}  {message.name or message.subject}  {message.reason}"
        if message.problem:
            left += 1
            say(f"{head}\n    stays: {message.problem}")
            continue
        if really:
            await put_back(jetstream, message)
        ready += 1
        say(f"{head}\n    {'put back' if really else 'can be put back'}")
    say(f"{ready} {'put back' if really else 'can be put back: add --yes'}, {left} left")
    return left
