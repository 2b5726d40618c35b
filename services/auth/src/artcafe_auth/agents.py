"""Prove agents: issue challenges, check what was signed, hand out tickets.

The rules, in the order in which they are applied to a proof:

1. A challenge or ticket is removed from the store by the very look that finds it: of racing uses one gets
   it, and a wrong signature uses it up too. Only who knows a challenge can use it up, and everyone who asks
   gets one of their own.
2. It must be known, not expired (by this code, in UTC epoch seconds) and belong to the agent that is named.
3. The agent's keys are asked of registry each time, so that a revoked key is refused at once. While registry
   is away the answer is ``unavailable``, never that the credentials are bad.
4. The signature must be one of those keys'. For an unknown agent a key that nobody has takes their place.
5. Only then is anything said about the tenant: that it is suspended is told to its agents alone.

Every refusal has the same body, and leaves at a multiple of `REFUSAL_SECONDS` after the request came: what
was wrong, and whether there is such an agent, does not show in the time either.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from artcafe_auth import metrics
from artcafe_auth.limits import RateLimits
from artcafe_auth.public_keys import PublicKey, parse_public_key
from artcafe_auth.signatures import MalformedSignature, Signature, decode_signature, signer_of, usable_keys
from artcafe_auth.store import Kind, OneTime, OneTimeStore
from artcafe_common.clock import Clock
from artcafe_common.contracts.auth import VerifiedAgent, VerifyAgent
from artcafe_common.contracts.registry import AgentInfo, GetAgent
from artcafe_common.errors import ErrorCode, ServiceError, invalid, permission_denied
from artcafe_common.ids import check_agent_id, check_tenant_id
from artcafe_common.quota import Buckets
from artcafe_common.tokens import unauthenticated

logger = logging.getLogger(__name__)

SECRET_BYTES = 32
CHALLENGE_SECONDS = 300
TICKET_SECONDS = 60
REFUSAL_SECONDS = 0.05
# What is said about refusals in the log: a few a minute for each agent and address, whatever arrives.
REFUSALS_LOGGED_PER_SECOND = 0.1
REFUSALS_LOGGED_BURST = 5.0

REFUSED = "the agent could not be verified"
SUSPENDED = "tenant is suspended"

_SECRET_RE = re.compile(r"[A-Za-z0-9_-]{43}")

AskRegistry = Callable[[GetAgent], Awaitable[AgentInfo]]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Challenge:
    """What an agent is to sign, and until when (epoch seconds)."""

    challenge: str
    expires_at: int


class Refused(Exception):
    """A proof does not hold; `reason` is for the log and the metrics only."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class AgentProofs:
    """Everything auth does for agents; see the module for the rules."""

    def __init__(
        self,
        store: OneTimeStore,
        ask_registry: AskRegistry,
        limits: RateLimits,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._store = store
        self._ask_registry = ask_registry
        self._limits = limits
        self._clock = clock
        self._sleep = sleep
        self._nobody = [("", _key_of_nobody())]
        self._logged: Buckets[tuple[str, str]] = Buckets(
            REFUSALS_LOGGED_PER_SECOND, REFUSALS_LOGGED_BURST, clock, capacity=10_000
        )

    async def challenge(self, tenant_id: str, agent_id: str, address: str) -> Challenge:
        """Issue a challenge; nobody is asked whether there is such an agent.

        Raises: ServiceError ``invalid_argument``, ``resource_exhausted``, ``unavailable``.
        """
        check_tenant_id(tenant_id)
        check_agent_id(agent_id)
        self._limits.challenge(tenant_id, agent_id, address)
        secret, expires_at = await self._issue("challenge", tenant_id, agent_id, CHALLENGE_SECONDS, None)
        metrics.CHALLENGES.inc()
        return Challenge(secret, expires_at)

    async def ticket(self, agent: VerifiedAgent) -> str:
        """Return a ticket by which a proven agent opens one socket within `TICKET_SECONDS`."""
        secret, _ = await self._issue(
            "ticket", agent.tenant_id, agent.agent_id, TICKET_SECONDS, agent.fingerprint
        )
        metrics.TICKETS.inc()
        return secret

    async def verify(self, request: VerifyAgent) -> VerifiedAgent:
        """Return the agent that a challenge with its signature, or a ticket, proves.

        Raises: ServiceError ``unauthenticated`` for what does not hold, ``permission_denied`` where the agent
        is proven and its tenant suspended, ``invalid_argument``, ``resource_exhausted``, ``unavailable``.
        """
        started = self._clock.monotonic()
        check_agent_id(request.agent_id)
        if request.tenant_id is not None:
            check_tenant_id(request.tenant_id)
        by_ticket = request.ticket is not None
        if by_ticket == (request.challenge is not None) or by_ticket == (request.signature is not None):
            raise invalid("either a challenge with its signature or a ticket is needed")
        self._limits.proof(request.remote_address)
        kind: Kind = "ticket" if by_ticket else "challenge"
        try:
            verified, suspended = await (
                self._by_ticket(request) if by_ticket else self._by_signature(request)
            )
        except Refused as refused:
            metrics.PROOFS.labels(kind, "refused").inc()
            self._log_refusal(request, kind, refused.reason)
            elapsed = self._clock.monotonic() - started
            await self._sleep(REFUSAL_SECONDS - elapsed % REFUSAL_SECONDS)
            raise unauthenticated(REFUSED) from None
        except ServiceError as error:
            metrics.PROOFS.labels(kind, error.code).inc()
            raise
        if suspended:
            metrics.PROOFS.labels(kind, "suspended").inc()
            raise permission_denied(SUSPENDED)
        metrics.PROOFS.labels(kind, "verified").inc()
        return verified

    async def _by_signature(self, request: VerifyAgent) -> tuple[VerifiedAgent, bool]:
        assert request.challenge is not None and request.signature is not None
        record = await self._take("challenge", request.challenge, request)
        signature = _decoded(request.signature)
        agent = await self._agent(record)
        keys = usable_keys(agent.keys) if agent else []
        fingerprint = signer_of(keys or self._nobody, signature, request.challenge)
        if agent is None:
            raise Refused("unknown agent")
        if not keys:
            raise Refused("no usable key")
        if fingerprint is None:
            raise Refused("signature")
        return _verified(agent, fingerprint)

    async def _by_ticket(self, request: VerifyAgent) -> tuple[VerifiedAgent, bool]:
        assert request.ticket is not None
        record = await self._take("ticket", request.ticket, request)
        agent = await self._agent(record)
        if agent is None:
            raise Refused("unknown agent")
        if record.fingerprint not in {key.fingerprint for key in agent.keys}:
            raise Refused("key revoked")
        assert record.fingerprint is not None
        return _verified(agent, record.fingerprint)

    async def _issue(
        self, kind: Kind, tenant_id: str, agent_id: str, seconds: int, fingerprint: str | None
    ) -> tuple[str, int]:
        secret = secrets.token_urlsafe(SECRET_BYTES)
        expires_at = int(self._clock.now()) + seconds
        await self._store.add(kind, secret, OneTime(tenant_id, agent_id, expires_at, fingerprint))
        return secret, expires_at

    async def _take(self, kind: Kind, secret: str, request: VerifyAgent) -> OneTime:
        if _SECRET_RE.fullmatch(secret) is None:
            raise Refused("not issued here")
        record = await self._store.take(kind, secret)
        if record is None:
            raise Refused("unknown or used")
        if self._clock.now() >= record.expires_at:
            raise Refused("expired")
        if record.agent_id != request.agent_id or request.tenant_id not in (None, record.tenant_id):
            raise Refused("issued to another agent")
        return record

    async def _agent(self, record: OneTime) -> AgentInfo | None:
        try:
            return await self._ask_registry(GetAgent(record.tenant_id, record.agent_id))
        except ServiceError as error:
            if error.code == ErrorCode.NOT_FOUND:
                return None
            raise

    def _log_refusal(self, request: VerifyAgent, kind: Kind, reason: str) -> None:
        if self._logged.take((request.agent_id, request.remote_address)) == 0.0:
            logger.info(
                "agent_refused",
                extra={
                    "tenant_id": request.tenant_id,
                    "agent_id": request.agent_id,
                    "remote_address": request.remote_address,
                    "kind": kind,
                    "reason": reason,
                },
            )


def _verified(agent: AgentInfo, fingerprint: str) -> tuple[VerifiedAgent, bool]:
    verified = VerifiedAgent(tenant_id=agent.tenant_id, agent_id=agent.agent_id, fingerprint=fingerprint)
    return verified, agent.tenant_status != "active"


def _decoded(text: str) -> Signature:
    try:
        return decode_signature(text)
    except MalformedSignature:
        # Goes the whole way, like any other wrong signature.
        return b""


def _key_of_nobody() -> PublicKey:
    """Return a key whose private half is forgotten at once."""
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    line = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return parse_public_key(line.decode())
