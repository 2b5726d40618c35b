"""People's tokens (JSON Web Tokens of OpenID Connect issuers) and the tenants they open.

A token is verified first: signature by a key that auth vouches for, issuer, audience, times with 30 seconds
of leeway. Only then is any header believed, and only against a membership.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jwt
import msgspec

from artcafe_common.clock import Clock
from artcafe_common.contracts.auth import IssuerKeys, Jwks
from artcafe_common.contracts.registry import Membership, Memberships
from artcafe_common.errors import ErrorCode, ServiceError, invalid, permission_denied, unavailable
from artcafe_common.roles import Permission, Role, permissions_of

logger = logging.getLogger(__name__)

LEEWAY_SECONDS = 30
KEYS_FRESH_SECONDS = 300.0
KEYS_STALE_SECONDS = 24 * 3600.0
UNKNOWN_KEY_PAUSE_SECONDS = 10.0
TOKEN_MAX_LENGTH = 16_384
USER_ID_MAX_LENGTH = 255
TENANT_CLAIMS = ("tenant_id", "custom:tenant_id")
ROLE_CLAIMS = ("role", "custom:role")

# What a token that is none makes the libraries raise.
_NO_TOKEN = (jwt.PyJWTError, ValueError)
# Far in the future, and a number that arithmetic can do with; NaN and infinity are not below it.
_TIME_MAX_SECONDS = 2**53
_KEY_TYPES = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}


def not_a_member() -> ServiceError:
    """Return the refusal of a tenant that somebody does not belong to, whether or not there is one."""
    return permission_denied("you are not a member of this organisation")


def unauthenticated(detail: str = "the token is not valid") -> ServiceError:
    """Return an ``unauthenticated`` error; the detail never says which check failed."""
    return ServiceError(ErrorCode.UNAUTHENTICATED, detail)


@dataclass(frozen=True, slots=True)
class Person:
    """Who a verified token speaks for. `expires_at` is epoch seconds. The claims name a tenant and a role
    only where the issuer is trusted to state them.

    A ``sub`` means something beside its issuer only (OpenID Connect Core 1.0, section 5.7): `user_id` stands
    for the two of them, and no two issuers' people share one.
    """

    user_id: str
    email: str
    expires_at: float
    claimed_tenant_id: str | None = None
    claimed_role: str | None = None


@dataclass(frozen=True, slots=True)
class TenantScope:
    """A person in one tenant, with what their roles allow there."""

    person: Person
    tenant_id: str
    role: str
    permissions: frozenset[Permission]

    def require(self, permission: Permission) -> None:
        """Raise ``permission_denied`` unless the roles allow it."""
        if permission not in self.permissions:
            raise permission_denied(f"the role {self.role} does not allow {permission}")


class KeyRing:
    """The issuers' keys as auth last told them, asked for again when old or when a key is unknown.

    While auth is away, or has itself no keys of an issuer, old keys serve on for a bounded time. Unknown key
    ids make it ask at most once in `UNKNOWN_KEY_PAUSE_SECONDS`, whatever clients send.
    """

    def __init__(self, fetch: Callable[[], Awaitable[Jwks]], clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._issuers: dict[str, IssuerKeys] = {}
        self._keys_at: dict[str, float] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._asking: asyncio.Task[None] | None = None

    async def find(self, issuer: str, key_id: str) -> tuple[IssuerKeys, dict[str, Any]] | None:
        """Return an issuer and its key, or None where there is no such key.

        Raises: ServiceError ``unavailable`` where no keys of the issuer are known or they are too old.
        """
        now = self._clock.monotonic()
        found = self._lookup(issuer, key_id)
        old = self._fetched_at is None or now - self._fetched_at > KEYS_FRESH_SECONDS
        paused = self._tried_at is not None and now - self._tried_at < UNKNOWN_KEY_PAUSE_SECONDS
        # With no keys at all there is nothing to serve meanwhile, so a first fetch is never put off.
        due = self._fetched_at is None or ((old or found is None) and not paused)
        if found is None or self._too_old(now):
            # A question that is on its way may bring it.
            if self._asking or due:
                await asyncio.shield(self._refresh(now))
                found = self._lookup(issuer, key_id)
        elif due:
            # Nobody waits to get a key that is known.
            self._refresh(now)
        if found is None and issuer in self._issuers and not self._issuers[issuer].keys:
            raise unavailable("the identity provider")
        if self._too_old(now):
            # Also between two attempts to get new ones.
            raise unavailable("auth")
        return found

    def _too_old(self, now: float) -> bool:
        return self._fetched_at is None or now - self._fetched_at > KEYS_STALE_SECONDS

    def _lookup(self, issuer: str, key_id: str) -> tuple[IssuerKeys, dict[str, Any]] | None:
        rules = self._issuers.get(issuer)
        if rules is None:
            return None
        for key in rules.keys:
            if key.get("kid") == key_id:
                return rules, dict(key)
        return None

    def _refresh(self, now: float) -> asyncio.Task[None]:
        """Ask auth; whoever comes meanwhile shares the question and its outcome."""
        if self._asking is None:
            self._tried_at = now
            self._asking = asyncio.create_task(self._ask(now))
            self._asking.add_done_callback(self._asked)
        return self._asking

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        if not task.cancelled():
            # Seen here too, for the case that everybody who waited has gone.
            task.exception()

    async def _ask(self, now: float) -> None:
        try:
            jwks = await self._fetch()
        except ServiceError as error:
            if self._too_old(now):
                raise
            logger.warning("jwks_refresh_failed", extra={"code": error.code})
            return
        self._issuers = {issuer.issuer: self._with_keys(issuer, now) for issuer in jwks.issuers}
        self._fetched_at = now

    def _with_keys(self, issuer: IssuerKeys, now: float) -> IssuerKeys:
        """Return an issuer as auth told it; where auth could not reach it lately, with the keys it had."""
        if issuer.keys:
            self._keys_at[issuer.issuer] = now
            return issuer
        known = self._issuers.get(issuer.issuer)
        had_at = self._keys_at.get(issuer.issuer)
        if known is None or had_at is None or now - had_at > KEYS_STALE_SECONDS:
            return issuer
        return msgspec.structs.replace(issuer, keys=known.keys)


class TokenVerifier:
    """Checks tokens against the key ring."""

    def __init__(self, keys: KeyRing, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def verify(self, token: str) -> Person:
        """Return whom a token speaks for.

        Raises: ServiceError ``unauthenticated`` for any token that does not hold, ``unavailable`` where the
        keys cannot be had.
        """
        if len(token) > TOKEN_MAX_LENGTH:
            raise unauthenticated()
        try:
            stated = jwt.decode_complete(token, options={"verify_signature": False})
        except _NO_TOKEN:
            raise unauthenticated() from None
        header, issuer = stated["header"], stated["payload"].get("iss")
        key_id = header.get("kid")
        if not isinstance(issuer, str) or not isinstance(key_id, str):
            raise unauthenticated()
        found = await self._keys.find(issuer, key_id)
        if found is None:
            raise unauthenticated()
        rules, key = found
        algorithm = header.get("alg")
        # The key's own type decides, so that a public key is never taken for a shared secret.
        if algorithm not in rules.algorithms or _KEY_TYPES.get(algorithm) != key.get("kty"):
            raise unauthenticated()
        try:
            claims = jwt.decode(
                token,
                jwt.PyJWK(key, algorithm).key,
                algorithms=[algorithm],
                issuer=issuer,
                options={
                    "require": ["exp", "iss", "sub"],
                    "verify_aud": False,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except _NO_TOKEN:
            raise unauthenticated() from None
        return self._person(claims, rules)

    def _person(self, claims: dict[str, Any], rules: IssuerKeys) -> Person:
        now = self._clock.now()
        expires_at = _number(claims.get("exp"))
        not_before = _number(claims.get("nbf", 0))
        if expires_at is None or now >= expires_at + LEEWAY_SECONDS:
            raise unauthenticated("the token has expired")
        if not_before is None or now < not_before - LEEWAY_SECONDS:
            raise unauthenticated()
        audience = claims.get("aud", claims.get("client_id"))
        audiences = audience if isinstance(audience, list) else [audience]
        if not any(name in rules.audiences for name in audiences if isinstance(name, str)):
            raise unauthenticated()
        if rules.token_uses and claims.get("token_use") not in rules.token_uses:
            raise unauthenticated()
        email = claims.get("email")
        tenant_id = _first(claims, TENANT_CLAIMS)
        believed = rules.tenant_claims or tenant_id in rules.tenants
        return Person(
            user_id=_user_id(claims["sub"], rules),
            email=email if isinstance(email, str) else "",
            expires_at=expires_at,
            claimed_tenant_id=tenant_id if believed else None,
            claimed_role=_first(claims, ROLE_CLAIMS) if believed else None,
        )


class MembershipSource(Protocol):
    """Where a person's memberships come from: registry, over NATS or inside itself."""

    async def memberships(self, user_id: str, claimed_tenant_id: str | None) -> Memberships:
        """Return every membership of a person; an unknown person has none."""
        ...


class Access:
    """Turns a bearer token and the tenant a client asks for into a `TenantScope`."""

    def __init__(self, verifier: TokenVerifier, memberships: MembershipSource) -> None:
        self._verifier = verifier
        self._memberships = memberships

    async def person(self, token: str) -> Person:
        """Return whom a token speaks for (see `TokenVerifier.verify`)."""
        return await self._verifier.verify(token)

    async def memberships(self, person: Person) -> Memberships:
        """Return the person's memberships; one that the token claims counts where no row speaks of it."""
        known = await self._memberships.memberships(person.user_id, person.claimed_tenant_id)
        rows = {membership.tenant_id for membership in known.memberships}
        if person.claimed_tenant_id and known.claimed_status and person.claimed_tenant_id not in rows:
            # A claim that states no role makes a member; one that this version does not know allows nothing.
            claimed = Membership(
                tenant_id=person.claimed_tenant_id,
                role=person.claimed_role or str(Role.MEMBER),
                tenant_status=known.claimed_status,
            )
            return Memberships(
                user_id=known.user_id,
                memberships=[*known.memberships, claimed],
                platform_roles=known.platform_roles,
            )
        return known

    async def scope(self, token: str, wanted_tenant_id: str | None) -> TenantScope:
        """Return the person in the tenant they ask for, or in their only one.

        Raises: ServiceError ``unauthenticated``; ``permission_denied`` where they are no member of it or
        of any, or it is suspended; ``invalid_argument`` where they belong to several and chose none.
        """
        person = await self.person(token)
        known = await self.memberships(person)
        platform_roles = tuple(known.platform_roles)
        # Somebody with a platform role may act in a tenant they do not belong to, where they ask for it.
        may_visit = bool(platform_roles) and wanted_tenant_id is not None
        chosen = _choose(known.memberships, wanted_tenant_id or person.claimed_tenant_id, may_visit)
        if chosen is None:
            assert wanted_tenant_id is not None
            permissions = permissions_of(None, platform_roles)
            return TenantScope(person, wanted_tenant_id, platform_roles[0], permissions)
        if chosen.tenant_status != "active" and not platform_roles:
            raise permission_denied("this organisation is suspended")
        permissions = permissions_of(chosen.role, platform_roles)
        return TenantScope(person, chosen.tenant_id, chosen.role, permissions)


def _user_id(subject: object, rules: IssuerKeys) -> str:
    # Else an issuer without a prefix could make somebody who belongs to one that has it.
    if not isinstance(subject, str) or not subject or subject.startswith(tuple(rules.foreign_prefixes)):
        raise unauthenticated()
    user_id = rules.user_prefix + subject
    # It stands in keys, frames and logs: no control characters, nothing that is not UTF-8.
    if len(user_id) > USER_ID_MAX_LENGTH or not user_id.isprintable():
        raise unauthenticated()
    return user_id


def _choose(memberships: list[Membership], wanted: str | None, may_visit: bool) -> Membership | None:
    if wanted is not None:
        for membership in memberships:
            if membership.tenant_id == wanted:
                return membership
        if may_visit:
            return None
        raise not_a_member()
    if len(memberships) == 1:
        return memberships[0]
    if not memberships:
        raise permission_denied("you belong to no organisation yet; create one with POST /api/v1/tenants")
    raise invalid("you belong to several organisations; choose one with the header X-Tenant-Id")


def _first(claims: dict[str, Any], names: tuple[str, ...]) -> str | None:
    for name in names:
        value = claims.get(name)
        if isinstance(value, str) and value:
            return value
    return None


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < _TIME_MAX_SECONDS:
        return None
    return float(value)
