"""What auth offers to the other services."""

from __future__ import annotations

import msgspec

from artcafe_common.contracts.endpoint import Endpoint, Event


class VerifyAgent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Prove an agent: either a challenge with its signature, or a ticket.

    ``tenant_id`` may be missing: the challenge knows its tenant. ``remote_address`` is for rate limits.
    """

    agent_id: str
    tenant_id: str | None = None
    challenge: str | None = None
    signature: str | None = None
    ticket: str | None = None
    remote_address: str = ""


class VerifiedAgent(msgspec.Struct, frozen=True, kw_only=True):
    """Who the agent is, and which of its keys (OpenSSH SHA256 fingerprint) proved it."""

    tenant_id: str
    agent_id: str
    fingerprint: str


class GetJwks(msgspec.Struct, frozen=True):
    """Ask for the keys and rules by which people's tokens are checked."""


class IssuerKeys(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One trusted OpenID Connect issuer.

    ``keys`` are JSON Web Keys (RFC 7517). ``audiences`` are the accepted ``aud`` or, for Cognito's access
    tokens, ``client_id`` values. ``token_uses`` is empty where the issuer has no such claim.
    A person's id is ``user_prefix`` and the token's ``sub``; a ``sub`` that begins with one of
    ``foreign_prefixes``, which are those of other issuers, is nobody's here. ``tenant_claims`` says whether
    the issuer's tenant and role claims are believed whatever tenant they name; else they are where they name
    one of ``tenants``. ``sign_in_urls`` are the addresses that a dashboard in a browser calls to sign a
    person in.
    """

    issuer: str
    keys: list[dict[str, str | list[str] | bool]]
    audiences: list[str]
    algorithms: list[str]
    token_uses: list[str] = []
    tenant_claims: bool = False
    sign_in_urls: list[str] = []
    user_prefix: str = ""
    foreign_prefixes: list[str] = []
    tenants: list[str] = []


class Jwks(msgspec.Struct, frozen=True, kw_only=True):
    """All trusted issuers with their keys as auth knows them now."""

    issuers: list[IssuerKeys]


class Revoked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Close these sessions now: of a whole tenant, of one agent, or of one key of an agent.

    ``agent_id`` missing: every session of the tenant, dashboards included. ``fingerprint`` given: only
    sessions which that key opened. ``reason`` is one of ``key_revoked``, ``agent_deleted``,
    ``tenant_suspended``, ``tenant_deleted``.
    """

    tenant_id: str
    reason: str
    agent_id: str | None = None
    fingerprint: str | None = None


VERIFY_AGENT = Endpoint("auth.v1.agent.verify", VerifyAgent, VerifiedAgent)
GET_JWKS = Endpoint("auth.v1.jwks.get", GetJwks, Jwks)
REVOKED = Event("auth.v1.revoked", Revoked)
