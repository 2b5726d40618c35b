"""The platform as its customers use it: a tenant, its agents and their challenges, over REST."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlencode

import aiohttp
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.generator import BenchError

TENANT_ID = "bench"
AT_A_TIME = 12
# Nothing is unlimited here: what a plan limits is what is checked on every message.
LIMITS = {"messages_per_second": 1_000_000, "messages_per_month": 1_000_000_000_000}


class Platform:
    """A signed-in person and a tenant of their own; agents share one key, which they sign with here.

    Services are asked directly, as their sockets are opened directly: no peer has an edge in front.
    """

    def __init__(self, auth_url: str, registry_url: str, email: str, password: str) -> None:
        self._auth = f"{auth_url}/api/v1/auth"
        self._registry = f"{registry_url}/api/v1"
        self._email = email
        self._password = password
        self._headers: dict[str, str] = {}
        self._key = Ed25519PrivateKey.generate()
        public = self._key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        self._public_key = public.decode()
        self._made = 0

    def sign_in(self) -> None:
        """Sign in and make the tenant."""
        asyncio.run(self._with_session(self._sign_in))

    def make_agents(self, count: int) -> list[str]:
        """Register agents and return their ids."""
        first, self._made = self._made, self._made + count
        agents = [f"agent-{number:05d}" for number in range(first, self._made)]
        asyncio.run(self._with_session(lambda session: self._each(self._make_agent, session, agents)))
        return agents

    def socket_targets(self, agents: Sequence[str]) -> list[str]:
        """Return the path with which each agent may open a socket once, within the next five minutes."""
        targets: list[str] = []

        async def work(session: aiohttp.ClientSession) -> None:
            targets.extend(await self._each(self._socket_target, session, agents))

        asyncio.run(self._with_session(work))
        return targets

    def dashboard_target(self) -> str:
        """Return the path with which the person opens a dashboard's socket."""
        token = self._headers["Authorization"].removeprefix("Bearer ")
        return f"/ws/dashboard?{urlencode({'token': token, 'tenant_id': TENANT_ID})}"

    def read_agents(self, agents: Sequence[str]) -> None:
        """Read agents, a few at a time."""
        asyncio.run(self._with_session(lambda session: self._each(self._read_agent, session, agents)))

    async def _with_session(self, work: Callable[[aiohttp.ClientSession], Awaitable[object]]) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            await work(session)

    async def _each(
        self,
        work: Callable[[aiohttp.ClientSession, str], Awaitable[str]],
        session: aiohttp.ClientSession,
        agents: Iterable[str],
    ) -> list[str]:
        free = asyncio.Semaphore(AT_A_TIME)

        async def one(agent_id: str) -> str:
            async with free:
                return await work(session, agent_id)

        return list(await asyncio.gather(*map(one, agents)))

    async def _sign_in(self, session: aiohttp.ClientSession) -> None:
        body = {"email": self._email, "password": self._password}
        token = (await self._post(session, f"{self._auth}/login", body))["access_token"]
        self._headers = {"Authorization": f"Bearer {token}"}
        tenant = {
            "tenant_id": TENANT_ID,
            "name": "Benchmark",
            "plan": "enterprise",
            "limits": LIMITS,
            "auto_create_channels": True,
        }
        await self._post(session, f"{self._registry}/tenants", tenant)
        self._headers["X-Tenant-Id"] = TENANT_ID

    async def _make_agent(self, session: aiohttp.ClientSession, agent_id: str) -> str:
        body = {"agent_id": agent_id, "name": agent_id, "public_key": self._public_key}
        await self._post(session, f"{self._registry}/agents", body)
        return agent_id

    async def _read_agent(self, session: aiohttp.ClientSession, agent_id: str) -> str:
        async with session.get(f"{self._registry}/agents/{agent_id}", headers=self._headers) as answer:
            await _check(answer)
            return agent_id

    async def _socket_target(self, session: aiohttp.ClientSession, agent_id: str) -> str:
        body = {"tenant_id": TENANT_ID, "agent_id": agent_id}
        challenge = (await self._post(session, f"{self._auth}/agent/challenge", body))["challenge"]
        signature = base64.b64encode(self._key.sign(challenge.encode())).decode()
        query = urlencode({"challenge": challenge, "signature": signature})
        return f"/ws/agent/{agent_id}?{query}"

    async def _post(self, session: aiohttp.ClientSession, url: str, body: object) -> Any:
        async with session.post(url, json=body, headers=self._headers) as answer:
            await _check(answer)
            return await answer.json()


async def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status >= 400:
        raise BenchError(f"{answer.url} was answered {answer.status}: {(await answer.text())[:300]}")
