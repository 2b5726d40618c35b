"""The OpenAPI 3.1 document of a service, made from its operations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from artcafe_common import __version__
from artcafe_common.errors import RENDERINGS, ErrorCode
from artcafe_common.http.operation import FileReply, Operation

_REF_TEMPLATE = "#/components/schemas/{name}"
_CHANNEL_PATTERN = r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64})*$"
_TOKEN_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"


class Problem(msgspec.Struct):
    """An error (RFC 9457). `resource`, `current`, `limit` and `plan` come with 402."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    instance: str
    resource: str | None = None
    current: int | None = None
    limit: int | None = None
    plan: str | None = None


def openapi_document(title: str, operations: Iterable[Operation]) -> dict[str, Any]:
    """Return the document; paths are as the edge serves them."""
    listed = list(operations)
    types: list[Any] = [Problem]
    for operation in listed:
        kinds = (operation.body, operation.query, operation.reply)
        types += [kind for kind in kinds if kind is not None and not isinstance(kind, FileReply)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF_TEMPLATE)
    by_type = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for operation in listed:
        path = "/api/v1" + re.sub(r":\w+}", "}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, by_type, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": f"ArtCafe PubSub: {title}", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(operation: Operation, by_type: dict[int, Any], components: dict[str, Any]) -> dict[str, Any]:
    status = str(204 if operation.reply is None and operation.status == 200 else operation.status)
    answer: dict[str, Any] = {"description": "Success"}
    if isinstance(operation.reply, FileReply):
        answer |= _file(operation.reply)
    elif operation.reply is not None:
        answer["content"] = {"application/json": {"schema": by_type[id(operation.reply)]}}
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {status: answer, **_problems(operation)},
    }
    if operation.description:
        described["description"] = operation.description
    if operation.tags:
        described["tags"] = list(operation.tags)
    if parameters := _parameters(operation, by_type, components):
        described["parameters"] = parameters
    if operation.body is not None:
        schema = by_type[id(operation.body)]
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if operation.access != "public":
        described["security"] = [{"bearer": []}]
    return described


def _file(reply: FileReply) -> dict[str, Any]:
    # For bytes the media type says all there is to say (OpenAPI 3.1, 4.8.14.3).
    answer: dict[str, Any] = {
        "content": {
            media_type: {"schema": {"type": "string"}} if media_type.startswith("text/") else {}
            for media_type in reply.media_types
        }
    }
    if reply.headers:
        answer["headers"] = {
            name: {"description": description, "schema": {"type": "string"}}
            for name, description in reply.headers.items()
        }
    return answer


def _parameters(
    operation: Operation, by_type: dict[int, Any], components: dict[str, Any]
) -> Sequence[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    for name in re.findall(r"{(\w+)(?::\w+)?}", operation.path):
        pattern = _CHANNEL_PATTERN if name == "channel_id" else _TOKEN_PATTERN
        schema: dict[str, Any] = {"type": "string", "pattern": pattern}
        if name not in ("channel_id", "agent_id", "tenant_id"):
            schema = {"type": "string"}
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    schema = components[by_type[id(operation.query)]["$ref"].rsplit("/", 1)[1]]
    required = schema.get("required", [])
    for name, property_schema in schema.get("properties", {}).items():
        parameters.append(
            {"name": name, "in": "query", "required": name in required, "schema": property_schema}
        )
    if operation.access not in ("public", "person") and "{tenant_id}" not in operation.path:
        parameters.append(
            {
                "name": "X-Tenant-Id",
                "in": "header",
                "required": False,
                "description": "Which of the caller's organisations; needed where there are several",
                "schema": {"type": "string", "pattern": _TOKEN_PATTERN},
            }
        )
    return parameters


def _problems(operation: Operation) -> dict[str, Any]:
    codes = [ErrorCode.INVALID_ARGUMENT, ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL, *operation.errors]
    if operation.access != "public":
        codes += [ErrorCode.UNAUTHENTICATED, ErrorCode.PERMISSION_DENIED, ErrorCode.RESOURCE_EXHAUSTED]
    statuses = {str(RENDERINGS[code].http_status): RENDERINGS[code].title for code in codes}
    if ErrorCode.RESOURCE_EXHAUSTED in operation.errors:
        statuses["402"] = "Plan limit reached"
    content = {"application/problem+json": {"schema": {"$ref": _REF_TEMPLATE.format(name="Problem")}}}
    return {status: {"description": title, "content": content} for status, title in sorted(statuses.items())}
