"""What auth answers over HTTP and NATS: one function for each operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
from starlette.responses import Response

from artcafe_auth.agents import TICKET_SECONDS, AgentProofs
from artcafe_auth.people import LocalPeople
from artcafe_auth.providers import Providers
from artcafe_common.clock import rfc3339
from artcafe_common.contracts.auth import GetJwks, Jwks, VerifiedAgent, VerifyAgent
from artcafe_common.errors import ErrorCode, ServiceError, invalid
from artcafe_common.http import Call

TENANT_HEADER = "X-Tenant-Id"
LOGIN_PATH = "/api/v1/auth/login"

_encode = msgspec.json.Encoder().encode

Id = Annotated[str, msgspec.Meta(max_length=64)]
Secret = Annotated[str, msgspec.Meta(max_length=128)]


class AskChallenge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is going to be proven."""

    tenant_id: Id
    agent_id: Id


class ChallengeReply(msgspec.Struct, frozen=True, kw_only=True):
    """What to sign, and until when."""

    challenge: str
    expires_at: str
    tenant_id: str
    agent_id: str


class Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A challenge and its signature; the tenant may be left out, the challenge knows it."""

    agent_id: Id
    challenge: Secret
    response: Annotated[str, msgspec.Meta(max_length=16_384)]
    tenant_id: Id | None = None


class ProofReply(msgspec.Struct, frozen=True, kw_only=True):
    """A ticket that opens one socket; `expires_in` in seconds."""

    valid: bool
    agent_id: str
    tenant_id: str
    ticket: str
    expires_in: int


class Login(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person's e-mail and password."""

    email: Annotated[str, msgspec.Meta(max_length=1024)]
    password: Annotated[str, msgspec.Meta(max_length=1024)]


class LoginReply(msgspec.Struct, frozen=True, kw_only=True):
    """A bearer token; `expires_in` in seconds."""

    access_token: str
    token_type: str
    expires_in: int


class KeySet(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON Web Key Set (RFC 7517)."""

    keys: list[dict[str, str]]


class IssuerConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a dashboard signs in at one issuer: authorization code with PKCE.

    `user_prefix` stands before the tokens' ``sub`` in the ids of its people; missing where it is empty.
    """

    issuer: str
    client_id: str
    scopes: list[str]
    user_prefix: str = ""
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    end_session_endpoint: str | None = None


class SignInConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a dashboard needs to sign a person in."""

    issuers: list[IssuerConfig]
    local_login: bool
    login_path: str | None


@dataclass(frozen=True, slots=True)
class Handlers:
    """The operations with what they work on; `people` is None where there is no local issuer."""

    agents: AgentProofs
    providers: Providers
    people: LocalPeople | None

    async def create_challenge(self, call: Call) -> Response:
        """Issue a challenge for the agent in the body."""
        body: AskChallenge = call.body
        return await self._challenge(body.tenant_id, body.agent_id, call.remote_address)

    async def get_challenge(self, call: Call) -> Response:
        """Issue a challenge for the agent in the path, its tenant being named by a header."""
        tenant_id = call.request.headers.get(TENANT_HEADER)
        if tenant_id is None:
            raise invalid(f"the header {TENANT_HEADER} is needed")
        return await self._challenge(tenant_id, call.path["agent_id"], call.remote_address)

    async def verify_proof(self, call: Call) -> Response:
        """Check a signed challenge and hand out a ticket."""
        body: Proof = call.body
        agent = await self.agents.verify(
            VerifyAgent(
                agent_id=body.agent_id,
                tenant_id=body.tenant_id,
                challenge=body.challenge,
                signature=body.response,
                remote_address=call.remote_address,
            )
        )
        reply = ProofReply(
            valid=True,
            agent_id=agent.agent_id,
            tenant_id=agent.tenant_id,
            ticket=await self.agents.ticket(agent),
            expires_in=TICKET_SECONDS,
        )
        return _not_stored(reply)

    async def login(self, call: Call) -> Response:
        """Sign a person in at the local issuer."""
        if self.people is None:
            raise ServiceError(
                ErrorCode.FAILED_PRECONDITION,
                "people sign in at the identity provider, see /api/v1/auth/config",
            )
        body: Login = call.body
        signed_in = await self.people.sign_in(body.email, body.password, call.remote_address)
        return _not_stored(
            LoginReply(access_token=signed_in.token, token_type="Bearer", expires_in=signed_in.seconds)
        )

    async def key_set(self, call: Call) -> KeySet:
        """Return the local issuer's public keys."""
        return KeySet(keys=[self.people.issuer.jwk] if self.people else [])

    async def sign_in_config(self, call: Call) -> SignInConfig:
        """Return what a dashboard needs to sign a person in."""
        issuers = [
            IssuerConfig(
                issuer=provider.issuer.issuer,
                client_id=provider.issuer.client_id,
                scopes=list(provider.issuer.scopes),
                user_prefix=provider.issuer.user_prefix,
                authorization_endpoint=provider.endpoints.authorization,
                token_endpoint=provider.endpoints.token,
                end_session_endpoint=provider.endpoints.end_session,
            )
            for provider in self.providers.providers
            if provider.issuer.client_id is not None
        ]
        local = self.people is not None
        return SignInConfig(issuers=issuers, local_login=local, login_path=LOGIN_PATH if local else None)

    async def verify_agent(self, request: VerifyAgent) -> VerifiedAgent:
        """Answer `VERIFY_AGENT`."""
        return await self.agents.verify(request)

    async def get_jwks(self, request: GetJwks) -> Jwks:
        """Answer `GET_JWKS`."""
        return await self.providers.jwks()

    async def _challenge(self, tenant_id: str, agent_id: str, address: str) -> Response:
        issued = await self.agents.challenge(tenant_id, agent_id, address)
        reply = ChallengeReply(
            challenge=issued.challenge,
            expires_at=rfc3339(issued.expires_at),
            tenant_id=tenant_id,
            agent_id=agent_id,
        )
        return _not_stored(reply)


def _not_stored(reply: msgspec.Struct) -> Response:
    """Return an answer that no cache may keep (RFC 6749, section 5.1)."""
    return Response(_encode(reply), media_type="application/json", headers={"Cache-Control": "no-store"})
