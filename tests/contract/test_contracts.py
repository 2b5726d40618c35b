"""What goes over the wire between services stays readable for older and newer peers."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import artcafe_common.contracts
from artcafe_common import errors
from artcafe_common.contracts import Endpoint, Event, subjects
from artcafe_common.contracts.gateway import sessions_endpoint
from artcafe_common.contracts.platform import health_endpoint

from .golden import VALUES

HERE = Path(__file__).parent
MODULES = [
    importlib.import_module(f"artcafe_common.contracts.{module.name}")
    for module in pkgutil.iter_modules(artcafe_common.contracts.__path__)
]


def _types() -> dict[str, type[msgspec.Struct]]:
    found = {}
    for module in [*MODULES, errors]:
        for name, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, msgspec.Struct) and value is not msgspec.Struct:
                found[name] = value
    return found


TYPES = _types()
LINES = (HERE / "golden.txt").read_text().splitlines()
CURRENT = [line.split(" ", 1) for line in LINES if not line.startswith("old ")]
OLD = [line.split(" ", 2)[1:] for line in LINES if line.startswith("old ")]


def test_every_type_has_its_bytes() -> None:
    """No type goes over the wire without a line that says how."""
    assert {type(value).__name__ for value in VALUES} == set(TYPES)
    assert [name for name, _ in CURRENT] == [type(value).__name__ for value in VALUES]


@pytest.mark.parametrize(("value", "line"), [(v, line[1]) for v, line in zip(VALUES, CURRENT, strict=True)])
def test_bytes_on_the_wire_are_these(value: msgspec.Struct, line: str) -> None:
    """Names, order and form of the fields are those that other versions know, in both directions."""
    assert msgspec.json.encode(value).decode() == line
    assert msgspec.json.decode(line, type=type(value)) == value


@pytest.mark.parametrize(("name", "line"), OLD)
def test_bytes_of_older_peers_are_read(name: str, line: str) -> None:
    """What an older version sends is understood; fields it does not know have their defaults."""
    msgspec.json.decode(line, type=TYPES[name])


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_bytes_of_newer_peers_are_read(value: msgspec.Struct) -> None:
    """Fields that this version does not know are ignored, wherever they stand."""
    newer = msgspec.json.encode(_as_newer_peer(value))
    assert newer != msgspec.json.encode(value)
    assert msgspec.json.decode(newer, type=type(value)) == value


def _as_newer_peer(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_newer_peer(part) for part in value]
    if not isinstance(value, msgspec.Struct):
        return value
    fields = {
        field.encode_name: _as_newer_peer(getattr(value, field.name))
        for field in msgspec.structs.fields(value)
    }
    if value.__struct_config__.array_like:
        return [*fields.values(), "newer", {"a": 1}]
    return {"a_newer_field": {"a": [1]}, **fields, "newer": None}


def test_fields_are_only_added_with_a_default() -> None:
    """The fields of each type, and which must be there (!), are those of the list.

    To add one: give it a default, and put it into `fields.txt`. One that is removed, renamed or made needed
    is a new subject beside the old.
    """
    listed = (HERE / "fields.txt").read_text().splitlines()
    assert listed == list(_fields(TYPES))


def _fields(types: dict[str, type[msgspec.Struct]]) -> Iterator[str]:
    for name, kind in sorted(types.items()):
        fields = msgspec.structs.fields(kind)
        yield f"{name}:" + "".join(f" {field.encode_name}{'!' if field.required else ''}" for field in fields)


@pytest.mark.parametrize(
    "fields",
    [
        [("tenant_id", str)],
        [("tenant_id", str), ("agent", str), ("fingerprint", str)],
        [("tenant_id", str), ("agent_id", str), ("fingerprint", str), ("more", str)],
        [("tenant_id", str), ("agent_id", str | None, None), ("fingerprint", str | None, None)],
    ],
    ids=["removed", "renamed", "added without a default", "made optional"],
)
def test_change_that_breaks_is_seen(fields: list[Any]) -> None:
    """A field that is removed, renamed, added without a default or made optional is not overlooked."""
    changed = msgspec.defstruct("VerifiedAgent", fields, kw_only=True)
    listed = (HERE / "fields.txt").read_text().splitlines()
    assert listed != list(_fields(TYPES | {"VerifiedAgent": changed}))


def test_subjects_are_these() -> None:
    """Subjects, what goes over them, and how long a caller waits."""
    endpoints, events = set(), set()
    for module in MODULES:
        for value in vars(module).values():
            if isinstance(value, Endpoint):
                endpoints.add((value.subject, value.request.__name__, value.reply.__name__, value.timeout))
            elif isinstance(value, Event):
                events.add((value.template, value.payload.__name__, value.all_subjects))
    assert endpoints == {
        ("auth.v1.agent.verify", "VerifyAgent", "VerifiedAgent", 5.0),
        ("auth.v1.jwks.get", "GetJwks", "Jwks", 5.0),
        ("metering.v1.months.get", "GetMonths", "Months", 5.0),
        ("registry.v1.agent.get", "GetAgent", "AgentInfo", 5.0),
        ("registry.v1.agent.grants", "GetGrants", "Grants", 5.0),
        ("registry.v1.agent.status", "ListAgentStatus", "AgentStatusPage", 5.0),
        ("registry.v1.channel.resolve", "ResolveChannel", "ChannelInfo", 5.0),
        ("registry.v1.membership.get", "GetMemberships", "Memberships", 5.0),
        ("registry.v1.tenant.get", "GetTenant", "TenantInfo", 5.0),
    }
    assert events == {
        ("auth.v1.revoked", "Revoked", "auth.v1.revoked"),
        ("gateway.v1.presence.{tenant_id}.{agent_id}", "Presence", "gateway.v1.presence.>"),
        ("gateway.v1.replaced.{server_id}", "Replaced", "gateway.v1.replaced.>"),
        ("registry.v1.changed.{tenant_id}.{kind}.{id}", "Changed", "registry.v1.changed.>"),
        ("usage.v1.batch.{source}", "UsageBatch", "usage.v1.batch.>"),
    }
    health = health_endpoint("auth")
    assert (health.subject, health.timeout) == ("platform.v1.health.auth", 2.0)
    sessions = sessions_endpoint("s1-x")
    assert (sessions.subject, sessions.timeout) == ("gateway.v1.sessions.s1-x", 1.5)


def test_subject_of_an_event_is_filled_in() -> None:
    """Places of a subject take names, or a wildcard to hear of many."""
    changed = importlib.import_module("artcafe_common.contracts.registry").CHANGED
    assert changed.subject(tenant_id="t1", kind="agent", id="a1") == "registry.v1.changed.t1.agent.a1"
    assert changed.subject(tenant_id="t1", kind="*", id=">") == "registry.v1.changed.t1.*.>"


def test_subjects_of_the_data_plane() -> None:
    """Each channel has a subject under its tenant, and can be told from it."""
    subject = subjects.channel_subject("t1", "team.updates")
    assert subject == "tenant.t1.channel.team.updates"
    assert subjects.channel_of(subject) == ("t1", "team.updates")
    assert subjects.tenant_tap("t1") == "tenant.t1.>"


def test_services_are_strict_about_types_and_mild_about_the_rest() -> None:
    """A field of another type, or a missing one, is an error; spaces and order are not."""
    kind = TYPES["GetAgent"]
    assert msgspec.json.decode(b' { "agent_id" : "a1", "tenant_id" : "t1" } ', type=kind) == kind("t1", "a1")
    for line in (b'{"tenant_id":"t1"}', b'{"tenant_id":1,"agent_id":"a1"}', b"[]", b"null"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(line, type=kind)


def test_status_that_is_unknown_is_not_taken_for_another() -> None:
    """A new value of a closed list is a breaking change: it is refused, never read as something else."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(
            b'{"tenant_id":"t1","role":"owner","tenant_status":"deleting"}', type=TYPES["Membership"]
        )
