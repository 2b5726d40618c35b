"""Auth as a process: its start, its end, what it depends on, and what it never says."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import nullcontext, suppress
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from artcafe_common import rpc
from artcafe_common.bus import Bus
from artcafe_common.contracts.auth import GET_JWKS, VERIFY_AGENT, GetJwks, VerifyAgent
from artcafe_common.contracts.platform import GetHealth, health_endpoint
from artcafe_common.contracts.registry import AgentInfo, GetAgent
from artcafe_common.errors import ServiceError
from artcafe_devstack.servers import AwsEndpoint, aws_emulator, nats_server

from .auth_support import (
    AgentSigner,
    RegistryStandIn,
    auth_process,
    challenge,
    command,
    proof,
    running_auth,
    served_registry,
    settings,
    until_ready,
)


@pytest.fixture
def environment(nats_url: str, aws: AwsEndpoint, tmp_path: Path) -> dict[str, str]:
    """Return all settings of a process of auth."""
    key_file = str(tmp_path / "key.pem")
    return settings(nats_url, AUTH_LOCAL_ISSUER_KEY_FILE=key_file, **aws.environment())


@pytest.fixture
async def client(environment: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of the process that a test starts."""
    base = f"http://127.0.0.1:{environment['AUTH_HTTP_PORT']}"
    async with httpx.AsyncClient(base_url=f"{base}/api/v1", timeout=30, trust_env=False) as made:
        yield made


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    """Give a connection to the same NATS."""
    opened = await Bus.open(nats_url, name="test")
    yield opened
    await opened.close_gracefully()


def _base(environment: dict[str, str]) -> str:
    return f"http://127.0.0.1:{environment['AUTH_HTTP_PORT']}"


def test_local_issuer_is_refused_in_production(environment: dict[str, str]) -> None:
    """The process does not start, and says so in one line."""
    for wrong in ("production", ""):
        ended = command(environment | {"ENVIRONMENT": wrong})
        assert ended.returncode == 2
        assert ended.stderr == "configuration: AUTH_LOCAL_ISSUER is refused when ENVIRONMENT is production\n"
    adding = command(
        environment | {"ENVIRONMENT": "production"},
        "add-user",
        "--email",
        "ann@example.com",
        "--password-stdin",
        text="correct horse",
    )
    assert adding.returncode == 2


def test_settings_can_be_checked(environment: dict[str, str]) -> None:
    """`--check-config` tells whether the service would start; `--help` names every setting."""
    assert command(environment, "--check-config").stdout == "configuration: ok\n"
    misspelt = command(environment | {"AUTH_LOCAL_AUDIENSE": "x"}, "--check-config")
    assert misspelt.returncode == 2
    assert "did you mean AUTH_LOCAL_AUDIENCE?" in misspelt.stderr
    assert "AUTH_LOCAL_AUDIENCE" in command({}, "--help").stdout


def test_start_that_cannot_be_is_told_in_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    """A key file that is none ends the start with its name and no stack."""
    (tmp_path / "key.pem").write_text("not a key")
    ended = command(environment)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("cannot start: AUTH_LOCAL_ISSUER_KEY_FILE: ")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles"])
async def test_time_zone_of_the_host_does_not_matter(
    environment: dict[str, str], client: httpx.AsyncClient, bus: Bus, tmp_path: Path, zone: str
) -> None:
    """Fourteen hours ahead or eight behind, a challenge lives five minutes and is accepted."""
    registry, signer = RegistryStandIn(), AgentSigner()
    registry.add("t1", "a1", signer.registered)
    with auth_process(environment | {"TZ": zone}, tmp_path / "auth.log"):
        async with served_registry(bus, registry):
            await until_ready(client, _base(environment))
            asked = await client.post("/auth/agent/challenge", json={"tenant_id": "t1", "agent_id": "a1"})
            ends = datetime.fromisoformat(asked.json()["expires_at"]).timestamp() - time.time()
            assert 200 < ends < 320
            answer = await client.post("/auth/agent/verify", json=proof(signer, asked.json()["challenge"]))
            assert answer.status_code == 200


async def test_secrets_are_never_told(
    environment: dict[str, str], client: httpx.AsyncClient, bus: Bus, tmp_path: Path
) -> None:
    """Neither the log, at its most talkative, nor the metrics hold a secret of any exchange."""
    environment |= {"LOG_LEVEL": "DEBUG"}
    email, password = "ann@example.com", "correct horse battery"
    command(environment, "add-user", "--email", email, "--password-stdin", text=password)
    registry, signer, stranger = RegistryStandIn(), AgentSigner(), AgentSigner()
    registry.add("t1", "a1", signer.registered)
    secrets = [password, "a wrong password"]
    log = tmp_path / "auth.log"
    with auth_process(environment, log) as process:
        async with served_registry(bus, registry):
            await until_ready(client, _base(environment))
            for body in (proof(signer, await challenge(client)), proof(stranger, await challenge(client))):
                answer = await client.post("/auth/agent/verify", json=body)
                secrets += [body["challenge"], body["response"]]
                if answer.status_code == 200:
                    secrets.append(answer.json()["ticket"])
            for expected in (None, ServiceError):
                with pytest.raises(expected) if expected else nullcontext():
                    await rpc.call(bus, VERIFY_AGENT, VerifyAgent(agent_id="a1", ticket=secrets[4]))
            for given in (password, "a wrong password"):
                answer = await client.post("/auth/login", json={"email": email, "password": given})
                secrets += [answer.json()["access_token"]] if answer.status_code == 200 else []
            metrics = (await client.get(f"{_base(environment)}/metrics")).text
            secrets.append((tmp_path / "key.pem").read_text().splitlines()[1])
        process.terminate()
        assert process.wait(30) == 0
    told = log.read_text()
    assert "agent_refused" in told
    assert "artcafe_auth_proofs_total" in metrics
    assert len(secrets) == 9
    for secret in secrets:
        assert secret not in told
        assert secret not in metrics
    assert "a1" not in metrics


async def test_end_answers_what_is_in_flight(
    environment: dict[str, str], client: httpx.AsyncClient, bus: Bus, tmp_path: Path
) -> None:
    """On SIGTERM requests over both ways in are answered, and the process ends cleanly and soon."""
    signer = AgentSigner()

    class SlowRegistry(RegistryStandIn):
        asked = 0

        async def answer(self, request: GetAgent) -> AgentInfo:
            self.asked += 1
            await asyncio.sleep(1)
            return await super().answer(request)

    registry = SlowRegistry()
    registry.add("t1", "a1", signer.registered)
    with auth_process(environment, tmp_path / "auth.log") as process:
        async with served_registry(bus, registry):
            await until_ready(client, _base(environment))
            by_http = proof(signer, await challenge(client))
            asked = await challenge(client)
            by_bus = VerifyAgent(agent_id="a1", challenge=asked, signature=signer.sign(asked))
            answering = asyncio.create_task(client.post("/auth/agent/verify", json=by_http))
            verifying = asyncio.create_task(rpc.call(bus, VERIFY_AGENT, by_bus))
            async with asyncio.timeout(30):
                while registry.asked < 2:
                    await asyncio.sleep(0.01)
            started = time.monotonic()
            process.terminate()
            assert (await answering).status_code == 200
            assert (await verifying).agent_id == "a1"
            assert await asyncio.to_thread(process.wait, 30) == 0
            assert time.monotonic() - started < 8


async def test_process_waits_for_nats(environment: dict[str, str], tmp_path: Path) -> None:
    """Without NATS it neither crashes nor says that it is ready, and ends when told to."""
    nowhere = environment | {"NATS_URL": "nats://127.0.0.1:1"}
    with auth_process(nowhere, tmp_path / "auth.log") as process:
        async with asyncio.timeout(30):
            while '"event":"nats_' not in (tmp_path / "auth.log").read_text():
                await asyncio.sleep(0.1)
        assert process.poll() is None
        process.terminate()
        assert await asyncio.to_thread(process.wait, 30) == 0
    assert "Traceback" not in (tmp_path / "auth.log").read_text()


async def test_readiness_follows_nats_and_the_store(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While NATS or the store is away readiness is false, and true again by itself; callers may retry."""
    with nats_server(tmp_path / "nats") as nats, aws_emulator(tmp_path / "aws") as emulator:
        aws = AwsEndpoint(emulator.url)
        for name, value in aws.environment().items():
            monkeypatch.setenv(name, value)
        environment |= {"NATS_URL": nats.url, **aws.environment()}
        async with running_auth(environment) as client:
            base = _base(environment)
            for server in (emulator, nats):
                await asyncio.to_thread(server.kill)
                await until_ready(client, base, status=503)
                assert (await client.get(f"{base}/health")).status_code == 200
                if server is emulator:
                    answer = await client.post(
                        "/auth/agent/challenge", json={"tenant_id": "t1", "agent_id": "a1"}
                    )
                    assert answer.status_code == 503
                    assert answer.headers["retry-after"] == "1"
                await asyncio.to_thread(server.start)
                await until_ready(client, base)
            await challenge(client)
            bus = await Bus.open(nats.url, name="test")
            assert (await rpc.call(bus, GET_JWKS, GetJwks())).issuers
            await bus.close_gracefully()


async def test_store_that_comes_later_is_waited_for(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Auth that starts before its store creates the tables when it is there."""
    with aws_emulator(tmp_path / "aws") as emulator:
        aws = AwsEndpoint(emulator.url)
        for name, value in aws.environment().items():
            monkeypatch.setenv(name, value)
        await asyncio.to_thread(emulator.kill)

        async def late() -> None:
            await asyncio.sleep(2)
            await asyncio.to_thread(emulator.start)

        starting = asyncio.create_task(late())
        async with running_auth(environment | aws.environment()) as client:
            await challenge(client)
        await starting


async def test_health_is_told_over_nats(
    environment: dict[str, str], aws_environment: AwsEndpoint, bus: Bus
) -> None:
    """The suite's health page asks each service by name."""
    async with running_auth(environment), asyncio.timeout(30):
        while True:
            # A busy machine may not look at everything in the time that there is for it.
            with suppress(ServiceError):
                health = await rpc.call(bus, health_endpoint("auth"), GetHealth())
                if all(dependency.status == "up" for dependency in health.dependencies):
                    break
            await asyncio.sleep(0.1)
    assert (health.service, health.status) == ("auth", "up")
    assert [(d.name, d.status, d.required) for d in health.dependencies] == [
        ("nats", "up", True),
        ("dynamodb", "up", True),
        ("identity-providers", "up", False),
    ]


def test_tables_are_created_by_a_command(environment: dict[str, str]) -> None:
    """Where the service may not create tables, an operator does, and once more does no harm."""
    environment |= {"CREATE_TABLES": "false"}
    for _ in range(2):
        made = command(environment, "create-tables")
        assert (made.returncode, made.stderr) == (0, "")
    added = command(
        environment, "add-user", "--email", "a@example.com", "--password-stdin", text="correct horse"
    )
    assert added.returncode == 0
