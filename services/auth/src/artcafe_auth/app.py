"""The routes and subjects of auth."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from artcafe_auth import handlers
from artcafe_auth.handlers import Handlers
from artcafe_common.bus import Bus
from artcafe_common.contracts.auth import GET_JWKS, VERIFY_AGENT
from artcafe_common.contracts.platform import GetHealth, Health, health_endpoint
from artcafe_common.errors import ErrorCode
from artcafe_common.health import Readiness
from artcafe_common.http import HttpApp, Operation, create_app
from artcafe_common.rpc import serve

SERVICE = "auth"
BODY_BYTES_MAX = 32 * 1024
# Refusals wait a little on purpose and hold their place meanwhile: there must be room beside them.
PROOFS_AT_ONCE = 512


def operations(handle: Handlers) -> list[Operation]:
    """Return the REST operations; none of them takes a bearer token."""
    limited = (ErrorCode.RESOURCE_EXHAUSTED,)
    return [
        Operation(
            "POST",
            "/auth/agent/challenge",
            handle.create_challenge,
            "Ask for a challenge to sign",
            "public",
            body=handlers.AskChallenge,
            reply=handlers.ChallengeReply,
            errors=limited,
            description="Unknown agents get one too. It is valid for five minutes and can be used once.",
            tags=("agents",),
        ),
        Operation(
            "GET",
            "/agents/{agent_id}/challenge",
            handle.get_challenge,
            "Ask for a challenge to sign, as older agents do",
            "public",
            reply=handlers.ChallengeReply,
            errors=limited,
            description="The tenant is named by the header `X-Tenant-Id`.",
            tags=("agents",),
        ),
        Operation(
            "POST",
            "/auth/agent/verify",
            handle.verify_proof,
            "Exchange a signed challenge for a ticket",
            "public",
            body=handlers.Proof,
            reply=handlers.ProofReply,
            errors=(ErrorCode.UNAUTHENTICATED, ErrorCode.PERMISSION_DENIED, *limited),
            description="The ticket opens one socket within a minute. Any use ends the challenge.",
            tags=("agents",),
        ),
        Operation(
            "POST",
            "/auth/login",
            handle.login,
            "Sign in with e-mail and password",
            "public",
            body=handlers.Login,
            reply=handlers.LoginReply,
            errors=(ErrorCode.UNAUTHENTICATED, ErrorCode.FAILED_PRECONDITION, *limited),
            description="Only where the local issuer is on.",
            tags=("people",),
        ),
        Operation(
            "GET",
            "/auth/jwks.json",
            handle.key_set,
            "The public keys of the local issuer",
            "public",
            reply=handlers.KeySet,
            tags=("people",),
        ),
        Operation(
            "GET",
            "/auth/config",
            handle.sign_in_config,
            "What a dashboard needs to sign a person in",
            "public",
            reply=handlers.SignInConfig,
            tags=("people",),
        ),
    ]


def create_auth_app(handle: Handlers, readiness: Readiness) -> HttpApp:
    """Build the HTTP application."""
    return create_app(SERVICE, operations(handle), readiness=readiness, body_limit=BODY_BYTES_MAX)


@asynccontextmanager
async def serve_bus(bus: Bus, handle: Handlers, readiness: Readiness) -> AsyncIterator[None]:
    """Answer auth's subjects while the context is open."""

    async def health(_: GetHealth) -> Health:
        return await readiness.report()

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            serve(bus, VERIFY_AGENT, handle.verify_agent, queue=SERVICE, concurrency=PROOFS_AT_ONCE)
        )
        await stack.enter_async_context(serve(bus, GET_JWKS, handle.get_jwks, queue=SERVICE))
        await stack.enter_async_context(serve(bus, health_endpoint(SERVICE), health, queue=SERVICE))
        yield
