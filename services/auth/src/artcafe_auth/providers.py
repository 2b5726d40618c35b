"""The keys of the trusted issuers: fetched regularly and on demand, and kept while an issuer is away.

Each issuer is on its own: one that is down, slow or broken changes nothing for the others. Keys that were
fetched serve for `STALE_SECONDS` at most. On demand an issuer is asked at most once in `ON_DEMAND_SECONDS`,
however many services ask and whatever clients send them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from artcafe_auth import metrics
from artcafe_auth.fetcher import Fetcher, FetchError
from artcafe_auth.issuers import Issuer, is_acceptable_url
from artcafe_auth.jwks import PublicJwk, public_signing_keys
from artcafe_common.clock import Clock
from artcafe_common.contracts.auth import IssuerKeys, Jwks
from artcafe_common.errors import unavailable

logger = logging.getLogger(__name__)

ON_DEMAND_SECONDS = 10.0
# Less than what a service waits for the answer of GET_JWKS: it is better served old keys than none.
ON_DEMAND_WAIT_SECONDS = 2.0
RETRY_SECONDS = 15.0
STALE_SECONDS = 24 * 3600.0
JITTER = 0.1


@dataclass(frozen=True, slots=True)
class SignInEndpoints:
    """Where a browser signs in and out at an issuer; None where it does not say."""

    authorization: str | None = None
    token: str | None = None
    end_session: str | None = None


class Provider:
    """One issuer and what is known of it."""

    def __init__(self, issuer: Issuer, fetcher: Fetcher, clock: Clock, *, allow_http: bool) -> None:
        self.issuer = issuer
        self.endpoints = SignInEndpoints()
        self._fetcher = fetcher
        self._clock = clock
        self._allow_http = allow_http
        self._keys: list[PublicJwk] = []
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._running: asyncio.Task[bool] | None = None
        # There before the first success, or nobody would be told of an issuer that was never reached.
        metrics.KEYS_FETCHED_AT.labels(issuer.issuer).set(0)

    @property
    def keys(self) -> list[PublicJwk]:
        """The keys, none where none were ever had or those are too old to be trusted."""
        if self._fetched_at is None or self._clock.monotonic() - self._fetched_at > STALE_SECONDS:
            return []
        return self._keys

    def rules(self) -> IssuerKeys:
        """Return the issuer as the other services check its tokens."""
        return IssuerKeys(
            issuer=self.issuer.issuer,
            keys=list(self.keys),
            audiences=list(self.issuer.audiences),
            algorithms=list(self.issuer.algorithms),
            token_uses=list(self.issuer.token_uses),
            tenant_claims=self.issuer.tenant_claims,
            user_prefix=self.issuer.user_prefix,
            tenants=list(self.issuer.tenants),
            sign_in_urls=[self.endpoints.token] if self.issuer.client_id and self.endpoints.token else [],
        )

    async def refresh(self) -> bool:
        """Fetch the keys and tell whether that worked; callers at the same time share one fetch."""
        if self._running is None:
            self._tried_at = self._clock.monotonic()
            self._running = asyncio.create_task(self._refresh())
            self._running.add_done_callback(self._finished)
        # A caller who gives up does not end the fetch for the others.
        return await asyncio.shield(self._running)

    async def refresh_on_demand(self) -> None:
        """Fetch the keys unless that was tried lately; wait for it no longer than a caller does."""
        lately = self._tried_at is not None and self._clock.monotonic() - self._tried_at < ON_DEMAND_SECONDS
        # The first fetch is waited for, so that nobody is refused while auth starts.
        if lately and (self._running is None or self._fetched_at is not None):
            return
        try:
            async with asyncio.timeout(ON_DEMAND_WAIT_SECONDS):
                await self.refresh()
        except TimeoutError:
            logger.info("issuer_slow", extra={"issuer": self.issuer.issuer})

    async def close(self) -> None:
        """End a fetch that is under way."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    def _finished(self, _: asyncio.Task[bool]) -> None:
        self._running = None

    async def _refresh(self) -> bool:
        name = self.issuer.issuer
        try:
            keys = await self._fetch_keys()
        except FetchError as error:
            metrics.KEY_FETCHES.labels(name, "failed").inc()
            logger.warning("issuer_keys_not_fetched", extra={"issuer": name, "reason": error.reason})
            return False
        except Exception:
            # Whatever an issuer sends, it must not end the keeping of the others.
            metrics.KEY_FETCHES.labels(name, "failed").inc()
            logger.exception("issuer_keys_not_fetched", extra={"issuer": name})
            return False
        metrics.KEY_FETCHES.labels(name, "ok").inc()
        metrics.KEYS_FETCHED_AT.labels(name).set(self._clock.now())
        if {key["kid"] for key in keys} != {key["kid"] for key in self._keys}:
            logger.info("issuer_keys_changed", extra={"issuer": name, "keys": len(keys)})
        self._keys = keys
        self._fetched_at = self._clock.monotonic()
        return True

    async def _fetch_keys(self) -> list[PublicJwk]:
        url = self.issuer.jwks_url
        if url is None:
            url = await self._discover()
        elif self.issuer.client_id is not None:
            await self._discover_endpoints()
        keys = public_signing_keys(await self._fetcher.get(url))
        if not keys:
            raise FetchError("no usable key")
        return keys

    async def _discover(self) -> str:
        document = await self._fetcher.get(self.issuer.discovery_url)
        # OpenID Connect Discovery 1.0, section 4.3: another name means another issuer.
        if not isinstance(document, dict) or document.get("issuer") != self.issuer.issuer:
            raise FetchError("discovery names another issuer")
        url = document.get("jwks_uri")
        if not isinstance(url, str) or not is_acceptable_url(url, allow_http=self._allow_http):
            raise FetchError("discovery names no https key set")
        self.endpoints = SignInEndpoints(
            authorization=self._url(document, "authorization_endpoint"),
            token=self._url(document, "token_endpoint"),
            end_session=self._url(document, "end_session_endpoint"),
        )
        return url

    async def _discover_endpoints(self) -> None:
        try:
            await self._discover()
        except FetchError as error:
            # Signing in needs the endpoints; checking tokens, which is what matters, does not.
            logger.info("issuer_not_discovered", extra={"issuer": self.issuer.issuer, "reason": error.reason})

    def _url(self, document: dict[str, Any], name: str) -> str | None:
        url = document.get(name)
        if isinstance(url, str) and is_acceptable_url(url, allow_http=self._allow_http):
            return url
        return None


class Providers:
    """All trusted issuers, the local one among them."""

    def __init__(
        self, providers: Sequence[Provider], local: IssuerKeys | None, refresh_seconds: float
    ) -> None:
        self.providers = list(providers)
        self._local = local
        self._refresh_seconds = refresh_seconds

    async def run(self) -> None:
        """Fetch keys regularly until cancelled."""
        async with asyncio.TaskGroup() as group:
            for provider in self.providers:
                group.create_task(self._keep(provider))

    async def jwks(self) -> Jwks:
        """Return all issuers with their keys, asked for again where that is due.

        Raises: ServiceError ``unavailable`` where no issuer has keys: no reason to call a token bad.
        """
        await asyncio.gather(*(provider.refresh_on_demand() for provider in self.providers))
        issuers = [provider.rules() for provider in self.providers]
        if self._local is not None:
            issuers.append(self._local)
        if not any(issuer.keys for issuer in issuers):
            raise unavailable("identity provider")
        prefixes = [issuer.user_prefix for issuer in issuers if issuer.user_prefix]
        return Jwks(
            issuers=[
                issuer if issuer.user_prefix else msgspec.structs.replace(issuer, foreign_prefixes=prefixes)
                for issuer in issuers
            ]
        )

    async def check(self) -> None:
        """Raise unless every issuer has keys: for readiness."""
        for provider in self.providers:
            if not provider.keys:
                raise unavailable("identity provider")

    async def _keep(self, provider: Provider) -> None:
        try:
            while True:
                fetched = await provider.refresh()
                pause = self._refresh_seconds if fetched else min(RETRY_SECONDS, self._refresh_seconds)
                # Replicas that started together do not ask together for ever.
                await asyncio.sleep(pause * random.uniform(1 - JITTER, 1 + JITTER))
        finally:
            await provider.close()
