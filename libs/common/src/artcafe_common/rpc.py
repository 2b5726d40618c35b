"""Typed request/reply and events over NATS.

`call` and `serve` are the two ends of an `Endpoint`. The wire is JSON; a failed reply carries the headers
of NATS services (``Nats-Service-Error-Code`` and ``Nats-Service-Error``) and an `ErrorBody`. The id of the
request that caused a call travels in the header ``X-Request-Id``.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ConnectionClosedError, MaxPayloadError, NoRespondersError, OutboundBufferLimitError
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from artcafe_common import metrics
from artcafe_common.bus import Bus
from artcafe_common.contracts.endpoint import Endpoint, Event, EventT, ReplyT, RequestT
from artcafe_common.errors import ErrorBody, ErrorCode, ServiceError, invalid, unavailable
from artcafe_common.log import request_id_var

logger = logging.getLogger(__name__)

HEADER_ERROR_CODE = "Nats-Service-Error-Code"
HEADER_ERROR = "Nats-Service-Error"
HEADER_REQUEST_ID = "X-Request-Id"
DRAIN_TIMEOUT_SECONDS = 5.0
EVENT_TIMEOUT_SECONDS = 30.0
PENDING_MESSAGES_MAX = 16_384
PENDING_BYTES_MAX = 32 * 1024 * 1024

_NAME_RE = re.compile(r"[^\s*>.\x00-\x1f\x7f]+(?:\.[^\s*>.\x00-\x1f\x7f]+)*")

_encoder = msgspec.json.Encoder()
_error_decoder = msgspec.json.Decoder(ErrorBody)


async def call(
    bus: Bus, endpoint: Endpoint[RequestT, ReplyT], request: RequestT, *, timeout: float | None = None
) -> ReplyT:
    """Ask the service behind an endpoint and return its typed reply; `timeout` in seconds.

    Raises: ServiceError: what the service answered, or ``unavailable`` where nobody serves the subject or the
    bus is away, or ``deadline_exceeded``.
    """
    headers = {HEADER_REQUEST_ID: request_id} if (request_id := request_id_var.get()) else None
    if not bus.is_connected:
        raise unavailable("message bus")
    try:
        message = await bus.request(
            endpoint.subject, _encoder.encode(request), timeout=timeout or endpoint.timeout, headers=headers
        )
    except NoRespondersError:
        raise unavailable(endpoint.subject.split(".", 1)[0]) from None
    except NatsTimeoutError:
        raise ServiceError(
            ErrorCode.DEADLINE_EXCEEDED, "no answer in time, try again", retry_after=1.0
        ) from None
    except (ConnectionClosedError, OutboundBufferLimitError):
        raise unavailable("message bus") from None
    except MaxPayloadError:
        raise invalid("the request is too large") from None
    if message.headers and HEADER_ERROR_CODE in message.headers:
        raise ServiceError.from_body(_error_decoder.decode(message.data))
    return msgspec.json.decode(message.data, type=endpoint.reply)


@asynccontextmanager
async def serve(
    bus: Bus,
    endpoint: Endpoint[RequestT, ReplyT],
    handler: Callable[[RequestT], Awaitable[ReplyT]],
    *,
    queue: str,
    concurrency: int = 64,
) -> AsyncIterator[None]:
    """Answer an endpoint while the context is open.

    At most `concurrency` requests are worked on at once; a handler is given the endpoint's timeout, so that
    one that hangs cannot use up the places. On exit no new request is taken and those in flight are answered.
    """
    places = asyncio.Semaphore(concurrency)
    leaving = False
    running: set[asyncio.Task[None]] = set()

    def finish(task: asyncio.Task[None]) -> None:
        running.discard(task)
        places.release()

    async def accept(message: Msg) -> None:
        await places.acquire()
        if leaving:
            return
        task = asyncio.create_task(_answer(bus, endpoint, handler, message))
        running.add(task)
        task.add_done_callback(finish)

    subscription = await bus.subscribe(
        endpoint.subject,
        queue=queue,
        cb=accept,
        pending_msgs_limit=PENDING_MESSAGES_MAX,
        pending_bytes_limit=PENDING_BYTES_MAX,
    )
    await bus.flush()
    try:
        yield
    finally:
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_SECONDS):
                await _end(bus, subscription)
                while running:
                    await asyncio.wait(running)
                if bus.is_connected:
                    await bus.flush()
        except Exception as error:
            logger.warning(
                "serve_drain_failed", extra={"subject": endpoint.subject, "error": type(error).__name__}
            )
        finally:
            leaving = True
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)


@asynccontextmanager
async def listen(
    bus: Bus,
    event: Event[EventT],
    handler: Callable[[EventT], Awaitable[None]],
    *,
    subject: str | None = None,
    queue: str = "",
) -> AsyncIterator[None]:
    """Handle an event's announcements one after the other while the context is open.

    `subject` narrows which ones (default: all of the event); with `queue` each goes to one replica only. A
    handler that raises, or hangs longer than `EVENT_TIMEOUT_SECONDS`, loses its event and not the next one.
    """
    decoder = msgspec.json.Decoder(event.payload)

    async def accept(message: Msg) -> None:
        try:
            payload = decoder.decode(message.data)
        except msgspec.DecodeError as error:
            logger.warning(
                "event_not_valid", extra={"subject": message.subject, "error": type(error).__name__}
            )
            return
        try:
            async with asyncio.timeout(EVENT_TIMEOUT_SECONDS):
                await handler(payload)
        except ServiceError as error:
            logger.warning("event_refused", extra={"subject": message.subject, "code": error.code})
        except Exception:
            logger.exception("event_failed", extra={"subject": message.subject})

    subscription = await bus.subscribe(
        subject or event.all_subjects,
        queue=queue,
        cb=accept,
        pending_msgs_limit=PENDING_MESSAGES_MAX,
        pending_bytes_limit=PENDING_BYTES_MAX,
    )
    await bus.flush()
    try:
        yield
    finally:
        if not bus.is_closed:
            await subscription.unsubscribe()


def announce(bus: Bus, event: Event[EventT], payload: EventT, **names: str) -> None:
    """Publish an event; `names` fill in the places of its subject.

    Raises: ServiceError ``unavailable`` while the bus is away; ValueError where a name cannot stand in a
    subject.
    """
    for place, name in names.items():
        # `publish_nowait` trusts its caller.
        if _NAME_RE.fullmatch(name) is None:
            raise ValueError(f"{place} cannot stand in a subject")
    bus.publish_nowait(event.subject(**names), _encoder.encode(payload))


async def _answer(
    bus: Bus,
    endpoint: Endpoint[RequestT, ReplyT],
    handler: Callable[[RequestT], Awaitable[ReplyT]],
    message: Msg,
) -> None:
    started = time.perf_counter()
    # Each request has a task, and so a context, of its own.
    request_id_var.set((message.headers or {}).get(HEADER_REQUEST_ID, ""))
    code = "ok"
    headers: dict[str, str] | None = None
    try:
        reply = _encoder.encode(await _handle(endpoint, handler, message.data))
        if len(reply) > bus.max_payload:
            raise ValueError(f"a reply of {len(reply)} bytes is over the limit of NATS")
    except ServiceError as error:
        code = error.code
        reply, headers = _error_reply(error)
    except asyncio.CancelledError:
        # The service ends and this request took too long for it; whoever asked may ask another replica.
        code = ErrorCode.UNAVAILABLE
        reply, headers = _error_reply(unavailable("the service"))
    except Exception:
        logger.exception("request_failed", extra={"subject": endpoint.subject})
        code = ErrorCode.INTERNAL
        reply, headers = _error_reply(ServiceError(ErrorCode.INTERNAL, "internal error"))
    metrics.RPC_SECONDS.labels(endpoint.subject, code).observe(time.perf_counter() - started)
    if message.reply:
        try:
            # Built here and not with `Msg.respond`, which would echo the request's headers.
            await bus.publish(message.reply, reply, headers=headers)
        except NatsError as error:
            logger.warning("reply_not_sent", extra={"error": type(error).__name__})


async def _end(bus: Bus, subscription: Subscription) -> None:
    """End a subscription; what has come for it already is still handed over where the server is there."""
    if bus.is_connected:
        await subscription.drain()  # type: ignore[no-untyped-call]
    elif not bus.is_closed:
        await subscription.unsubscribe()


async def _handle(
    endpoint: Endpoint[RequestT, ReplyT], handler: Callable[[RequestT], Awaitable[ReplyT]], data: bytes
) -> ReplyT:
    try:
        request = msgspec.json.decode(data, type=endpoint.request)
    except msgspec.DecodeError:
        raise ServiceError(ErrorCode.INVALID_ARGUMENT, "request is not valid for this subject") from None
    try:
        async with asyncio.timeout(endpoint.timeout):
            return await handler(request)
    except TimeoutError:
        raise ServiceError(
            ErrorCode.DEADLINE_EXCEEDED, "the service took too long", retry_after=1.0
        ) from None


def _error_reply(error: ServiceError) -> tuple[bytes, dict[str, str]]:
    headers = {HEADER_ERROR_CODE: str(error.http_status), HEADER_ERROR: error.code}
    return _encoder.encode(error.body()), headers
