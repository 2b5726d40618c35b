"""What the integration tests of auth share: the service on real servers, and a registry that tests make."""

import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from artcafe_auth.config import PREFIX, AuthConfig
from artcafe_auth.server import run
from artcafe_common import rpc
from artcafe_common.bus import Bus
from artcafe_common.clock import Clock
from artcafe_common.config import load
from artcafe_common.contracts.registry import GET_AGENT, AgentInfo, AgentKey, GetAgent, TenantStatus
from artcafe_common.errors import not_found
from artcafe_devstack.ports import free_port

READY_SECONDS = 30.0
LOCAL_ISSUER_URL = "http://127.0.0.1:8080/api/v1/auth"


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.time = now
        self.uptime = 1000.0

    def now(self) -> float:
        """Return the wall time."""
        return self.time

    def monotonic(self) -> float:
        """Return the monotonic time."""
        return self.uptime

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.time += seconds
        self.uptime += seconds


@dataclass(frozen=True)
class AgentSigner:
    """An agent's key."""

    private: ed25519.Ed25519PrivateKey = field(default_factory=ed25519.Ed25519PrivateKey.generate)
    fingerprint: str = "SHA256:ofTheTest"

    @property
    def registered(self) -> AgentKey:
        """The key as registry tells it."""
        line = self.private.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        return AgentKey(fingerprint=self.fingerprint, public_key=line.decode())

    def sign(self, challenge: str) -> str:
        """Sign as agents do."""
        return base64.b64encode(self.private.sign(challenge.encode())).decode()


class RegistryStandIn:
    """Answers GET_AGENT from what a test says there is."""

    def __init__(self) -> None:
        self.agents: dict[tuple[str, str], AgentInfo] = {}

    def add(self, tenant_id: str, agent_id: str, *keys: AgentKey, status: TenantStatus = "active") -> None:
        """Let there be an agent."""
        self.agents[tenant_id, agent_id] = AgentInfo(
            tenant_id=tenant_id, agent_id=agent_id, name="", tenant_status=status, keys=list(keys)
        )

    async def answer(self, request: GetAgent) -> AgentInfo:
        """Answer."""
        try:
            return self.agents[request.tenant_id, request.agent_id]
        except KeyError:
            raise not_found("agent") from None


@asynccontextmanager
async def served_registry(bus: Bus, registry: RegistryStandIn) -> AsyncIterator[None]:
    """Serve the stand-in where the real registry serves."""
    async with rpc.serve(bus, GET_AGENT, registry.answer, queue="registry"):
        yield


def settings(nats_url: str, **changes: str) -> dict[str, str]:
    """Return an environment for auth on one machine, with a free port."""
    return {
        "NATS_URL": nats_url,
        "ENVIRONMENT": "development",
        "CREATE_TABLES": "true",
        "AUTH_HTTP_PORT": str(free_port()),
        "AUTH_LOCAL_ISSUER": "true",
        "AUTH_LOCAL_ISSUER_URL": LOCAL_ISSUER_URL,
    } | changes


@asynccontextmanager
async def running_auth(
    environment: Mapping[str, str], clock: Clock | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """Run auth in this process and give a client of its REST routes; credentials are in `os.environ`."""
    config = load(AuthConfig, PREFIX, environment)
    stop = asyncio.Event()
    serving = asyncio.create_task(run(config, stop, clock))
    base = f"http://127.0.0.1:{config.http_port}"
    try:
        async with httpx.AsyncClient(base_url=f"{base}/api/v1", timeout=30, trust_env=False) as client:
            await until_ready(client, base, serving)
            yield client
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await serving


async def until_ready(
    client: httpx.AsyncClient, base: str, serving: "asyncio.Task[None] | None" = None, status: int = 200
) -> None:
    """Wait until `/ready` answers with a status."""
    async with asyncio.timeout(READY_SECONDS):
        while True:
            if serving is not None and serving.done():
                serving.result()
            with suppress(httpx.TransportError):
                if (await client.get(f"{base}/ready")).status_code == status:
                    return
            await asyncio.sleep(0.05)


@contextmanager
def auth_process(environment: Mapping[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run auth as a process of its own that writes its log to a file."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "artcafe_auth"],
            env=process_environment(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(10)


def command(
    environment: Mapping[str, str], *arguments: str, text: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run a command of auth to its end."""
    return subprocess.run(
        [sys.executable, "-m", "artcafe_auth", *arguments],
        env=process_environment(environment),
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def process_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process: the given settings, and where Python finds its modules."""
    paths = os.pathsep.join(path for path in sys.path if path)
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | {"PYTHONPATH": paths} | dict(environment)


async def challenge(client: httpx.AsyncClient, tenant_id: str = "t1", agent_id: str = "a1") -> str:
    """Ask for a challenge."""
    answer = await client.post("/auth/agent/challenge", json={"tenant_id": tenant_id, "agent_id": agent_id})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["challenge"])


def proof(signer: AgentSigner, asked: str, **changes: Any) -> dict[str, Any]:
    """Return the body that proves a1."""
    return {"agent_id": "a1", "challenge": asked, "response": signer.sign(asked)} | changes
