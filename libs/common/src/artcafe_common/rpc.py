"""Typed request/reply and events over NATS.

`call` and `serve` are the two ends of an `Endpoint`. The wire is JSON; a failed reply carries the headers
of NATS services (``Nats-Service-Error-Code`` and ``Nats-Service-Error``) and an `ErrorBody`. The id of the
request that caused a call travels in the header ``X-Request-Id``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, NoRespondersError, OutboundBufferLimitError
from nats.errors import TimeoutError as NatsTimeoutError

from artcafe_common import metrics
from artcafe_common.bus import Bus
from artcafe_common.contracts.endpoint import Endpoint, Event, EventT, ReplyT, RequestT
from artcafe_common.errors import ErrorBody, ErrorCode, ServiceError, unavailable
from artcafe_common.log import request_id_var

logger = logging.getLogger(__name__)

HEADER_ERROR_CODE = "Nats-Service-Error-Code"
HEADER_ERROR = "Nats-Service-Error"
HEADER_REQUEST_ID = "X-Request-Id"
DRAIN_TIMEOUT_SECONDS = 5.0
PENDING_MESSAGES_MAX = 16_384
PENDING_BYTES_MAX = 32 * 1024 * 1024

T = TypeVar("T")

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
    running: set[asyncio.Task[None]] = set()

    def finish(task: asyncio.Task[None]) -> None:
        running.discard(task)
        places.release()

    async def accept(message: Msg) -> None:
        await places.acquire()
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
        if bus.is_connected:
            try:
                async with asyncio.timeout(DRAIN_TIMEOUT_SECONDS):
                    await subscription.drain()  # type: ignore[no-untyped-call]
                    while running:
                        await asyncio.wait(running)
                    await bus.flush()
            except Exception as error:
                logger.warning("serve_drain_failed", extra={"error": type(error).__name__})
        for task in running:
            task.cancel()


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

    `subject` narrows which ones (default: all of the event); with `queue` each goes to one replica only.
    """
    decoder = msgspec.json.Decoder(event.payload)

    async def accept(message: Msg) -> None:
        try:
            await handler(decoder.decode(message.data))
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

    Raises: ServiceError ``unavailable`` while the bus is away.
    """
    bus.publish_nowait(event.subject(**names), _encoder.encode(payload))


async def _answer(
    bus: Bus,
    endpoint: Endpoint[RequestT, ReplyT],
    handler: Callable[[RequestT], Awaitable[ReplyT]],
    message: Msg,
) -> None:
    started = time.perf_counter()
    token = request_id_var.set((message.headers or {}).get(HEADER_REQUEST_ID, ""))
    code = "ok"
    try:
        reply = _encoder.encode(await _handle(endpoint, handler, message.data))
        headers = None
    except ServiceError as error:
        code = error.code
        reply, headers = _error_reply(error)
    except Exception:
        logger.exception("request_failed", extra={"subject": endpoint.subject})
        code = ErrorCode.INTERNAL
        reply, headers = _error_reply(ServiceError(ErrorCode.INTERNAL, "internal error"))
    finally:
        request_id_var.reset(token)
    metrics.RPC_SECONDS.labels(endpoint.subject, code).observe(time.perf_counter() - started)
    if message.reply and not bus.is_closed:
        # Built here and not with `Msg.respond`, which would echo the request's headers.
        await bus.publish(message.reply, reply, headers=headers)


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
