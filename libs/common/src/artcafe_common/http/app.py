"""Build a Starlette application from operations.

Every request gets an id, a bounded body, a decoded and checked body and query, an authenticated caller, and
an answer in JSON; every failure is a problem document. `/health`, `/ready`, `/metrics` and the OpenAPI
document come with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from artcafe_common import metrics
from artcafe_common.errors import ErrorCode, ServiceError, invalid
from artcafe_common.health import Readiness
from artcafe_common.http.middleware import REQUEST_ID_HEADER, RequestMiddleware, request_id_of
from artcafe_common.http.openapi import openapi_document
from artcafe_common.http.operation import Call, Operation
from artcafe_common.http.problem import problem
from artcafe_common.ids import check_tenant_id
from artcafe_common.json_bounds import check_bounds
from artcafe_common.tokens import Access, TenantScope, unauthenticated

logger = logging.getLogger(__name__)

BODY_BYTES_MAX = 1024 * 1024
BODY_TIMEOUT_SECONDS = 30.0
API_PREFIX = "/api/v1"
TENANT_HEADER = "x-tenant-id"

_encode = msgspec.json.Encoder().encode

CallHook = Callable[[TenantScope], Awaitable[None]]
Endpoint = Callable[[Request], Awaitable[Response]]


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

    `on_call` is awaited for each request that was authenticated in a tenant, before its permission is looked
    at: it counts the call, and may refuse it by raising `ServiceError`. An application with such operations
    cannot do without. `extra_routes` are served as they are.
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
        middleware=[Middleware(RequestMiddleware)],
        exception_handlers={HTTPException: _http_exception, ServiceError: _service_error, Exception: _bug},
    )
    asgi.router.redirect_slashes = False
    return HttpApp(asgi, document)


def _routes(
    operations: list[Operation], access: Access | None, on_call: CallHook | None, body_limit: int
) -> list[BaseRoute]:
    names = [operation.name for operation in operations]
    if len(set(names)) != len(names):
        raise TypeError("two operations have the same name")
    # One route for all methods of a path, so that a refused method is told the allowed ones.
    by_path: dict[str, dict[str, Endpoint]] = {}
    for operation in operations:
        methods = by_path.setdefault(operation.path, {})
        methods[operation.method] = _endpoint(operation, access, on_call, body_limit)
    # Starlette matches in order: paths without a parameter go before those with one at the same place.
    ordered = sorted(by_path, key=lambda path: path.replace("{", "~"))
    return [
        Route(API_PREFIX + path, _dispatch(by_path[path]), methods=list(by_path[path])) for path in ordered
    ]


def _dispatch(methods: dict[str, Endpoint]) -> Endpoint:
    async def dispatch(request: Request) -> Response:
        return await methods["GET" if request.method == "HEAD" else request.method](request)

    return dispatch


def _endpoint(
    operation: Operation, access: Access | None, on_call: CallHook | None, body_limit: int
) -> Endpoint:
    if operation.access != "public" and access is None:
        raise TypeError(f"{operation.name} needs an Access")
    if operation.access not in ("public", "person") and on_call is None:
        raise TypeError(f"{operation.name} needs an `on_call`, which counts it")
    decoder = msgspec.json.Decoder(operation.body) if operation.body else None

    async def run(request: Request) -> Response:
        call = Call(request, dict(request.path_params), None, _decode_query(operation, request))
        if operation.access != "public":
            assert access is not None
            await _authenticate(operation, access, call)
            if call._scope is not None:
                assert on_call is not None
                await on_call(call._scope)
                call._scope.require(operation.access)  # type: ignore[arg-type]
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
        response = await _answer(run, request, operation.name)
        metrics.HTTP_SECONDS.labels(operation.path, operation.method, response.status_code).observe(
            time.perf_counter() - started
        )
        return response

    return endpoint


async def _answer(run: Endpoint, request: Request, name: str) -> Response:
    try:
        return await run(request)
    except ServiceError as error:
        return problem(error, request_id_of(request))
    except ClientDisconnect:
        # Nobody reads this answer.
        return Response(status_code=499)
    except Exception:
        logger.exception("request_failed", extra={"operation": name})
        return problem(ServiceError(ErrorCode.INTERNAL, "internal error"), request_id_of(request))


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
    check_bounds(body, "body")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(f"body: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid("body: not valid JSON") from None


async def _read_body(request: Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise invalid(f"body: larger than {limit} bytes")
                chunks.append(chunk)
    except TimeoutError:
        raise invalid(f"body: not received within {BODY_TIMEOUT_SECONDS:g} s") from None
    return b"".join(chunks)


_HTTP_CODES = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.INVALID_ARGUMENT}
_HTTP_DETAILS = {404: "no such route", 405: "this route has other methods"}


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, ErrorCode.INVALID_ARGUMENT)
    detail = _HTTP_DETAILS.get(error.status_code, error.detail)
    return problem(
        ServiceError(code, detail), request_id_of(request), status=error.status_code, headers=error.headers
    )


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem(error, request_id_of(request))


async def _bug(request: Request, error: Exception) -> Response:
    # What comes here was raised outside an operation. Starlette raises it again for the server to log.
    request_id = request_id_of(request)
    response = problem(ServiceError(ErrorCode.INTERNAL, "internal error"), request_id)
    # It is sent past the middleware.
    response.headers[REQUEST_ID_HEADER] = request_id
    return response
