"""The OpenAPI document that is made from the operations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from .http_support import OPERATIONS, client_of, demo_app


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The document of the demo application."""
    return demo_app().openapi


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def test_every_operation_is_in_the_document(document: dict[str, Any]) -> None:
    """Paths are those that the edge serves, with every method."""
    described = {(method.upper(), path) for path, method, _ in _operations(document)}
    assert described == {(operation.method, "/api/v1" + operation.path) for operation in OPERATIONS}


def test_names_are_unique(document: dict[str, Any]) -> None:
    """Each operation has an id of its own, from which clients are generated."""
    names = [operation["operationId"] for _, _, operation in _operations(document)]
    assert len(set(names)) == len(names)


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    """No schema refers to one that is not there."""
    for reference in _references(document):
        assert reference.startswith("#/components/schemas/")
        assert reference.rsplit("/", 1)[1] in document["components"]["schemas"]


def test_parameters_of_the_path_are_declared(document: dict[str, Any]) -> None:
    """Each place of a path is a required parameter, and no other is said to be in the path."""
    for path, _, operation in _operations(document):
        declared = {
            parameter["name"]: parameter["required"]
            for parameter in operation.get("parameters", [])
            if parameter["in"] == "path"
        }
        assert declared == dict.fromkeys(re.findall(r"{(\w+)}", path), True)


def test_parameters_are_unique_and_have_schemas(document: dict[str, Any]) -> None:
    """A parameter is declared once for its place, with its type."""
    for _, _, operation in _operations(document):
        parameters = operation.get("parameters", [])
        assert len({(p["name"], p["in"]) for p in parameters}) == len(parameters)
        assert all(parameter["schema"] for parameter in parameters)


def test_query_is_described(document: dict[str, Any]) -> None:
    """A query's fields are parameters with their bounds and defaults."""
    parameters = {p["name"]: p for p in document["paths"]["/api/v1/things"]["get"]["parameters"]}
    assert parameters["limit"] == {
        **{"name": "limit", "in": "query", "required": False},
        "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 50},
    }
    assert parameters["X-Tenant-Id"]["in"] == "header"
    assert set(parameters) == {"limit", "next_token", "status", "deep", "ratio", "X-Tenant-Id"}


def test_tenant_header_is_where_it_counts(document: dict[str, Any]) -> None:
    """The header is described for operations in a tenant that is not in their path."""
    with_header = {
        operation["operationId"]
        for _, _, operation in _operations(document)
        if any(p["name"] == "X-Tenant-Id" for p in operation.get("parameters", []))
    }
    assert with_header == {"get_thing", "delete_thing", "find_things", "make_thing", "special_thing", "usage"}


def test_body_and_answers_are_described(document: dict[str, Any]) -> None:
    """An operation says what it takes, what it answers, and how it fails."""
    operation = document["paths"]["/api/v1/things"]["post"]
    body = operation["requestBody"]
    assert body["required"]
    assert body["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Thing"}
    assert operation["responses"]["201"]["content"]["application/json"]["schema"]["$ref"].endswith("/Echo")
    assert set(operation["responses"]) == {"201", "400", "401", "402", "403", "409", "429", "500", "503"}
    assert operation["description"] == "Makes a thing."
    assert operation["tags"] == ["things"]
    assert operation["security"] == [{"bearer": []}]
    thing = document["components"]["schemas"]["Thing"]
    assert thing["additionalProperties"] is False
    assert thing["required"] == ["name"]


def test_public_operation_needs_no_token(document: dict[str, Any]) -> None:
    """What anybody may call says so."""
    operation = document["paths"]["/api/v1/login"]["post"]
    assert "security" not in operation
    assert set(operation["responses"]) == {"200", "400", "500", "503"}


def test_answer_without_content_is_204(document: dict[str, Any]) -> None:
    """An operation without a reply is described as it answers."""
    answers = document["paths"]["/api/v1/things/{thing_id}"]["delete"]["responses"]
    assert answers["204"] == {"description": "Success"}


def test_file_is_described_by_its_forms_and_headers(document: dict[str, Any]) -> None:
    """An operation that answers with a file says which media types it may have, and its headers."""
    answers = document["paths"]["/api/v1/export"]["get"]["responses"]
    assert "204" not in answers
    assert answers["200"] == {
        "description": "Success",
        "content": {"text/csv": {"schema": {"type": "string"}}, "application/x-file": {}},
        "headers": {"X-Lines": {"description": "How many", "schema": {"type": "string"}}},
    }
    assert "headers" not in document["paths"]["/api/v1/endless"]["get"]["responses"]["200"]


def test_every_answer_has_a_description(document: dict[str, Any]) -> None:
    """OpenAPI demands a description of each answer; failures are problem documents."""
    for _, _, operation in _operations(document):
        for status, answer in operation["responses"].items():
            assert answer["description"]
            if status >= "400":
                [schema] = answer["content"].values()
                assert schema == {"schema": {"$ref": "#/components/schemas/Problem"}}
                assert set(answer["content"]) == {"application/problem+json"}


async def test_problem_has_the_fields_that_are_described(document: dict[str, Any]) -> None:
    """What a failing request gets is what the document says."""
    schema = document["components"]["schemas"]["Problem"]
    async with client_of(demo_app()) as client:
        for how in ("quota", "rate", "bug"):
            body = (await client.get(f"/fail/{how}")).json()
            assert set(schema["required"]) <= set(body) <= set(schema["properties"])


async def test_document_is_served(document: dict[str, Any]) -> None:
    """The document is found beside the routes, as JSON."""
    async with client_of(demo_app()) as client:
        response = await client.get("/demo/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == json.loads(json.dumps(document))
    assert document["openapi"] == "3.1.0"


def test_ids_in_paths_have_their_grammar() -> None:
    """Places that are ids are described by the grammar of ids."""
    [parameter] = demo_app().openapi["paths"]["/api/v1/tenants/{tenant_id}"]["get"]["parameters"]
    pattern = re.compile(parameter["schema"]["pattern"])
    assert pattern.search("tenant-1")
    assert not pattern.search("a.b")
    assert not pattern.search("a/b")
