"""Build a Starlette application from operations.

Every request gets an id, a bounded body, a decoded and checked body and query, an authenticated caller, and
an answer in JSON; every failure is a problem document. `/health`, `/ready`, `/metrics` and the OpenAPI
document come with it.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from artcafe_common import metrics
from artcafe_common.errors import ErrorCode, ServiceError, invalid
from artcafe_common.health import Readiness
from artcafe_common.http.openapi import openapi_document
from artcafe_common.http.operation import Call, Operation
from artcafe_common.http.problem import problem
from artcafe_common.ids import check_tenant_id, new_ulid
from artcafe_common.log import request_id_var
from artcafe_common.tokens import Access, TenantScope, unauthenticated

logger = logging.getLogger(__name__)

BODY_BYTES_MAX = 1024 * 1024
API_PREFIX = "/api/v1"
REQUEST_ID_HEADER = "X-Request-Id"
TENANT_HEADER = "x-tenant-id"

_REQUEST_ID_RE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_encode = msgspec.json.Encoder().encode

CallHook = Callable[[TenantScope], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class HttpApp:
    """An application and the OpenAPI document of its operations."""

    asgi: Starlette
    openapi: dict[str, Any]


def create_app(
    title: str,
    operations: Iterable[Operation],
    *,
    readiness: Readiness,
    access: Access | None = None,
    on_call: CallHook | None = None,
    extra_routes: Iterable[BaseRoute] = (),
    body_limit: int = BODY_BYTES_MAX,
) -> HttpApp:
    """Build an application.

    `on_call` is awaited for each request that was authenticated in a tenant, before its handler: it counts
    the call and refuses it by raising `ServiceError`. `extra_routes` are served as they are.
    """
    listed = list(operations)
    document = openapi_document(title, listed)
    openapi_json = _encode(document)

    async def openapi(_: Request) -> Response:
        return Response(openapi_json, media_type="application/json")

    async def health(_: Request) -> Response:
        return Response(b'{"status":"up"}', media_type="application/json")

    async def ready(_: Request) -> Response:
        report = await readiness.report()
        return Response(_encode(report), 200 if report.status == "up" else 503, media_type="application/json")

    async def show_metrics(_: Request) -> Response:
        body, content_type = metrics.render()
        return Response(body, headers={"Content-Type": content_type})

    routes: list[BaseRoute] = [
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", show_metrics),
        Route(f"{API_PREFIX}/{title}/openapi.json", openapi),
        *_routes(listed, access, on_call, body_limit),
        *extra_routes,
    ]
    asgi = Starlette(
        routes=routes,
        exception_handlers={HTTPException: _http_exception, ServiceError: _service_error, Exception: _bug},
    )
    return HttpApp(asgi, document)


def _routes(
    operations: list[Operation], access: Access | None, on_call: CallHook | None, body_limit: int
) -> list[BaseRoute]:
    # Starlette matches in order: paths without a parameter go before those with one at the same place.
    ordered = sorted(operations, key=lambda operation: re.sub(r"\{", "~", operation.path))
    return [
        Route(
            API_PREFIX + operation.path,
            _endpoint(operation, access, on_call, body_limit),
            methods=[operation.method],
            name=operation.name,
        )
        for operation in ordered
    ]


def _endpoint(
    operation: Operation, access: Access | None, on_call: CallHook | None, body_limit: int
) -> Callable[[Request], Awaitable[Response]]:
    if operation.access != "public" and access is None:
        raise TypeError(f"{operation.name} needs an Access")
    decoder = msgspec.json.Decoder(operation.body) if operation.body else None

    async def run(request: Request) -> Response:
        call = Call(request, dict(request.path_params), None, _decode_query(operation, request))
        if operation.access != "public":
            assert access is not None
            await _authenticate(operation, access, call)
            if on_call and call._scope:
                await on_call(call.scope)
        if decoder is not None:
            call.body = _decode_body(decoder, await _read_body(request, body_limit))
        result = await operation.handler(call)
        if isinstance(result, Response):
            return result
        if operation.reply is None:
            return Response(status_code=204 if operation.status == 200 else operation.status)
        return Response(_encode(result), operation.status, media_type="application/json")

    async def endpoint(request: Request) -> Response:
        started = time.perf_counter()
        request_id = _request_id(request)
        token = request_id_var.set(request_id)
        try:
            response = await _answer(run, request, request_id, operation.name)
        finally:
            request_id_var.reset(token)
        response.headers[REQUEST_ID_HEADER] = request_id
        metrics.HTTP_SECONDS.labels(operation.path, operation.method, response.status_code).observe(
            time.perf_counter() - started
        )
        return response

    return endpoint


async def _answer(
    run: Callable[[Request], Awaitable[Response]], request: Request, request_id: str, name: str
) -> Response:
    try:
        return await run(request)
    except ServiceError as error:
        return problem(error, request_id)
    except ClientDisconnect:
        # Nobody reads this answer.
        return Response(status_code=499)
    except Exception:
        logger.exception("request_failed", extra={"operation": name})
        return problem(ServiceError(ErrorCode.INTERNAL, "internal error"), request_id)


async def _authenticate(operation: Operation, access: Access, call: Call) -> None:
    token = bearer_token(call.request)
    if operation.access == "person":
        call._person = await access.person(token)
        return
    wanted = call.path.get("tenant_id") or call.request.headers.get(TENANT_HEADER)
    asked: str | None = getattr(call.query, "tenant_id", None)
    if asked is not None and wanted not in (None, asked):
        raise invalid("the query and the header X-Tenant-Id name different organisations")
    wanted = wanted or asked
    if wanted is not None:
        check_tenant_id(wanted)
    call._scope = await access.scope(token, wanted)
    call._person = call._scope.person
    call._scope.require(operation.access)  # type: ignore[arg-type]


def bearer_token(request: Request) -> str:
    """Return the bearer token of a request, or raise ``unauthenticated``."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise unauthenticated("a bearer token is needed")
    return token.strip()


def _decode_query(operation: Operation, request: Request) -> msgspec.Struct:
    try:
        return msgspec.convert(dict(request.query_params), operation.query, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(f"query: {error}") from None


def _decode_body(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(f"body: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid("body: not valid JSON") from None


async def _read_body(request: Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise invalid(f"body: larger than {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _request_id(request: Request) -> str:
    given = request.headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID_RE.fullmatch(given) else new_ulid()


_HTTP_CODES = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.INVALID_ARGUMENT}


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, ErrorCode.INVALID_ARGUMENT)
    response = problem(ServiceError(code, error.detail), _request_id(request))
    response.status_code = error.status_code
    response.headers.update(error.headers or {})
    return response


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem(error, _request_id(request))


async def _bug(request: Request, error: Exception) -> Response:
    # Starlette logs nothing itself; what comes here was raised outside an operation.
    logger.error("request_failed", exc_info=error)
    return problem(ServiceError(ErrorCode.INTERNAL, "internal error"), _request_id(request))
