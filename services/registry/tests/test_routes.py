"""The table of routes: every one with the permission it takes, and a document that describes them all."""

import pytest

from artcafe_common.http import Operation
from artcafe_common.http.openapi import openapi_document
from artcafe_common.roles import PERMISSIONS, PLATFORM_PERMISSIONS, Permission, PlatformRole, Role
from artcafe_registry.app import operations
from artcafe_registry.services import Services

# Handlers keep their services and use them in calls only: the table needs none.
ALL = operations(object.__new__(Services))

EXPECTED = {
    "GET /agents": "agents:read",
    "POST /agents": "agents:write",
    "GET /agents/{agent_id}": "agents:read",
    "PUT /agents/{agent_id}": "agents:write",
    "DELETE /agents/{agent_id}": "agents:write",
    "GET /agents/{agent_id}/keys": "agents:read",
    "POST /agents/{agent_id}/keys": "agents:write",
    "DELETE /agents/{agent_id}/keys": "agents:write",
    "DELETE /agents/{agent_id}/keys/{fingerprint:path}": "agents:write",
    "GET /channels": "channels:read",
    "POST /channels": "channels:write",
    "GET /channels/{channel_id}": "channels:read",
    "PUT /channels/{channel_id}": "channels:write",
    "DELETE /channels/{channel_id}": "channels:write",
    "GET /agents/{agent_id}/channels": "channels:read",
    "GET /channels/{channel_id}/members": "channels:read",
    "GET /channels/{channel_id}/members/{agent_id}": "channels:read",
    "PUT /channels/{channel_id}/members/{agent_id}": "channels:write",
    "DELETE /channels/{channel_id}/members/{agent_id}": "channels:write",
    "GET /channels/{channel_id}/messages": "messages:read",
    "POST /channels/{channel_id}/messages": "messages:publish",
    "GET /tenants": "person",
    "POST /tenants": "person",
    "GET /tenants/{tenant_id}": "tenant:read",
    "PUT /tenants/{tenant_id}": "tenant:write",
    "DELETE /tenants/{tenant_id}": "person",
    "GET /tenants/{tenant_id}/members": "members:read",
    "POST /tenants/{tenant_id}/members": "members:write",
    "GET /tenants/{tenant_id}/members/{user_id:path}": "members:read",
    "PUT /tenants/{tenant_id}/members/{user_id:path}": "members:write",
    "DELETE /tenants/{tenant_id}/members/{user_id:path}": "tenant:read",
}


def test_every_route_takes_its_permission() -> None:
    """No route is there that this table does not know, and none takes less than it says."""
    assert {f"{o.method} {o.path}": str(o.access) for o in ALL} == EXPECTED


def test_no_route_is_public() -> None:
    """Nothing of the registry is answered without a token."""
    assert not [o.name for o in ALL if o.access == "public"]


@pytest.mark.parametrize("operation", [o for o in ALL if o.method != "GET"], ids=lambda o: o.name)
def test_viewers_and_billing_write_nothing(operation: Operation) -> None:
    """Roles that only read get through to no route that writes, but the one by which they leave."""
    if operation.name == "remove_member" or operation.access == "person":
        return
    for role in (Role.VIEWER, Role.BILLING):
        assert operation.access not in PERMISSIONS[role]


def test_platform_administrator_neither_writes_nor_hears() -> None:
    """Who runs the platform makes no agents and channels in tenants, and reads and publishes no messages."""
    allowed = PLATFORM_PERMISSIONS[PlatformRole.PLATFORM_ADMIN]
    closed = {o.name for o in ALL if isinstance(o.access, Permission) and o.access not in allowed}
    assert closed == {
        "create_agent",
        "update_agent",
        "delete_agent",
        "add_key",
        "remove_key",
        "remove_key_by_path",
        "create_channel",
        "update_channel",
        "delete_channel",
        "put_channel_member",
        "delete_channel_member",
        "publish_message",
        "list_messages",
    }


def test_operations_have_names_of_their_own() -> None:
    """The ids in the document are unique, since clients are generated from them."""
    names = [o.name for o in ALL]
    assert len(names) == len(set(names))


def test_document_describes_every_route() -> None:
    """The OpenAPI document has every route with its body, and the message's body as an object."""
    document = openapi_document("registry", ALL)
    described = {
        f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods
    }
    assert described == {f"{o.method} /api/v1{o.path.replace(':path', '')}" for o in ALL}
    body = document["paths"]["/api/v1/channels/{channel_id}/messages"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"] == {"type": "object"}
