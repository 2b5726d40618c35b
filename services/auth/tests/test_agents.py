"""The rules of proofs, with a store in memory and a registry that does what a test says."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from artcafe_auth import agents, signatures
from artcafe_auth.agents import CHALLENGE_SECONDS, REFUSAL_SECONDS, TICKET_SECONDS, AgentProofs
from artcafe_auth.limits import RateLimits
from artcafe_auth.public_keys import PublicKey
from artcafe_auth.signatures import Signature
from artcafe_common.contracts.auth import VerifiedAgent, VerifyAgent
from artcafe_common.contracts.registry import AgentInfo, AgentKey, GetAgent, TenantStatus
from artcafe_common.errors import ErrorCode, ServiceError, not_found, unavailable

from .support import ManualClock, MemoryOneTimeStore, key_pair


class FakeRegistry:
    """Answers GET_AGENT as registry does."""

    def __init__(self, clock: ManualClock) -> None:
        self.agents: dict[tuple[str, str], AgentInfo] = {}
        self.asked: list[GetAgent] = []
        self.failure: ServiceError | None = None
        self.seconds = 0.0
        self._clock = clock

    def add(self, tenant_id: str, agent_id: str, *keys: AgentKey, status: TenantStatus = "active") -> None:
        """Let there be an agent."""
        self.agents[tenant_id, agent_id] = AgentInfo(
            tenant_id=tenant_id, agent_id=agent_id, name="", tenant_status=status, keys=list(keys)
        )

    async def __call__(self, request: GetAgent) -> AgentInfo:
        """Answer."""
        self.asked.append(request)
        self._clock.move(self.seconds)
        if self.failure:
            raise self.failure
        try:
            return self.agents[request.tenant_id, request.agent_id]
        except KeyError:
            raise not_found("agent") from None


class World:
    """Auth's proofs with everything around them."""

    def __init__(self, *, address_rate: int = 0, agent_rate: int = 0) -> None:
        self.clock = ManualClock()
        self.store = MemoryOneTimeStore()
        self.registry = FakeRegistry(self.clock)
        self.registry.add("t1", "a1", key_pair().registered)
        self.slept: list[float] = []
        limits = RateLimits(address_rate=address_rate, agent_rate=agent_rate, login_rate=0, clock=self.clock)
        self.proofs = AgentProofs(self.store, self.registry, limits, self.clock, self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.move(seconds)

    async def challenge(self, tenant_id: str = "t1", agent_id: str = "a1") -> str:
        """Ask for a challenge."""
        return (await self.proofs.challenge(tenant_id, agent_id, "192.0.2.1")).challenge

    async def prove(self, challenge: str, **changes: Any) -> VerifiedAgent:
        """Prove a1 of t1 by its key."""
        given: dict[str, Any] = {
            "agent_id": "a1",
            "challenge": challenge,
            "signature": key_pair().response(challenge),
            "remote_address": "192.0.2.1",
        }
        return await self.proofs.verify(VerifyAgent(**(given | changes)))

    async def refused(self, challenge: str, **changes: Any) -> None:
        """Check that a proof gets the refusal that all get."""
        with pytest.raises(ServiceError) as caught:
            await self.prove(challenge, **changes)
        assert caught.value.body() == ServiceError(ErrorCode.UNAUTHENTICATED, agents.REFUSED).body()

    async def ticket_refused(self, ticket: str, **changes: Any) -> None:
        """Check that a ticket gets the refusal that all get."""
        with pytest.raises(ServiceError) as caught:
            await self.proofs.verify(VerifyAgent(**({"agent_id": "a1", "ticket": ticket} | changes)))
        assert caught.value.body() == ServiceError(ErrorCode.UNAUTHENTICATED, agents.REFUSED).body()


@pytest.fixture
def world() -> World:
    """Make a world with agent a1 in tenant t1."""
    return World()


async def test_challenge_proves_its_agent_once(world: World) -> None:
    """A signed challenge proves the agent, with or without the tenant's name, and only the first time."""
    for tenant_id in (None, "t1"):
        challenge = await world.challenge()
        verified = await world.prove(challenge, tenant_id=tenant_id)
        assert verified == VerifiedAgent(tenant_id="t1", agent_id="a1", fingerprint=key_pair().fingerprint)
        await world.refused(challenge, tenant_id=tenant_id)


async def test_challenges_are_long_random_and_stored_as_such(world: World) -> None:
    """Each challenge has 32 random bytes in base64url and five minutes in epoch seconds."""
    issued = [await world.proofs.challenge("t1", "a1", "") for _ in range(50)]
    assert len({challenge.challenge for challenge in issued}) == 50
    assert all(len(challenge.challenge) == 43 for challenge in issued)
    assert {challenge.expires_at for challenge in issued} == {int(world.clock.now()) + 300}


async def test_challenge_ends_after_five_minutes(world: World) -> None:
    """It holds in its last second and not after, however late the table's clean-up is."""
    for seconds, holds in ((CHALLENGE_SECONDS - 1, True), (CHALLENGE_SECONDS, False)):
        challenge = await world.challenge()
        world.clock.move(seconds)
        if holds:
            await world.prove(challenge)
        else:
            await world.refused(challenge)


async def test_challenge_is_for_its_agent_alone(world: World) -> None:
    """The same key under another agent or tenant does not make the challenge theirs."""
    world.registry.add("t1", "a2", key_pair().registered)
    world.registry.add("t2", "a1", key_pair().registered)
    await world.refused(await world.challenge(), agent_id="a2")
    await world.refused(await world.challenge(), tenant_id="t2")
    await world.refused(await world.challenge("t1", "a2"))
    await world.refused(await world.challenge("t2", "a1"), tenant_id="t1")


async def test_challenge_finds_its_tenant(world: World) -> None:
    """Where two tenants have an agent of the same name, the challenge says which is meant."""
    world.registry.add("t2", "a1", key_pair("p256").registered)
    challenge = await world.challenge("t2")
    verified = await world.prove(challenge, signature=key_pair("p256").response(challenge))
    assert verified.tenant_id == "t2"


@pytest.mark.parametrize(
    "invented",
    [
        "",
        "x",
        "A" * 43,
        "A" * 42,
        "2024-01-01T00:00:00Z",
        "A" * 43 + "\n",
        "challenge:" + "A" * 33,
        "\u00e9" * 43,
    ],
)
async def test_invented_challenge_is_refused(world: World, invented: str) -> None:
    """A challenge that auth did not issue proves nothing, though it is signed well."""
    await world.refused(invented)
    assert world.registry.asked == []


async def test_wrong_signature_uses_the_challenge_up(world: World) -> None:
    """After a wrong signature the right one is too late."""
    challenge = await world.challenge()
    await world.refused(challenge, signature=key_pair("ed25519", 1).response(challenge))
    await world.refused(challenge)


async def test_revoked_key_is_refused_at_once(world: World) -> None:
    """Registry is asked for every proof: nothing of an earlier one is remembered."""
    await world.prove(await world.challenge())
    world.registry.add("t1", "a1", key_pair("p256").registered)
    await world.refused(await world.challenge())


@pytest.mark.parametrize(
    "failure", [unavailable("registry"), ServiceError(ErrorCode.DEADLINE_EXCEEDED, "no answer in time")]
)
async def test_registry_away_is_not_bad_credentials(world: World, failure: ServiceError) -> None:
    """While registry is away an agent is told to come back, not that its key is bad."""
    challenge = await world.challenge()
    world.registry.failure = failure
    with pytest.raises(ServiceError) as caught:
        await world.prove(challenge)
    assert caught.value is failure


async def test_suspension_is_told_only_to_the_proven(world: World) -> None:
    """A suspended tenant's agent learns so; whoever has no key of it gets the common refusal."""
    world.registry.add("t1", "a1", key_pair().registered, status="suspended")
    challenge = await world.challenge()
    with pytest.raises(ServiceError) as caught:
        await world.prove(challenge)
    assert caught.value.code == ErrorCode.PERMISSION_DENIED
    assert caught.value.detail == "tenant is suspended"
    challenge = await world.challenge()
    await world.refused(challenge, signature=key_pair("p256").response(challenge))


async def test_ticket_opens_one_socket(world: World) -> None:
    """A ticket proves its agent once, and is no challenge."""
    ticket = await world.proofs.ticket(await world.prove(await world.challenge()))
    await world.refused(ticket)
    verified = await world.proofs.verify(VerifyAgent(agent_id="a1", ticket=ticket))
    assert verified.fingerprint == key_pair().fingerprint
    await world.ticket_refused(ticket)


async def test_challenge_is_no_ticket(world: World) -> None:
    """An unsigned challenge given as a ticket opens nothing."""
    await world.ticket_refused(await world.challenge())


async def test_ticket_ends(world: World) -> None:
    """A ticket holds for a minute, for its own agent, while its key and its tenant are good."""

    async def ticket() -> str:
        return await world.proofs.ticket(await world.prove(await world.challenge()))

    late = await ticket()
    world.clock.move(TICKET_SECONDS)
    await world.ticket_refused(late)
    world.registry.add("t1", "a2", key_pair().registered)
    await world.ticket_refused(await ticket(), agent_id="a2")
    await world.ticket_refused(await ticket(), tenant_id="t2")
    revoked = await ticket()
    world.registry.add("t1", "a1", key_pair("p256").registered)
    await world.ticket_refused(revoked)
    del world.registry.agents["t1", "a1"]
    await world.ticket_refused(revoked)


async def test_ticket_of_a_suspended_tenant_is_denied(world: World) -> None:
    """A tenant that was suspended after the ticket was made keeps its agents out."""
    ticket = await world.proofs.ticket(await world.prove(await world.challenge()))
    world.registry.add("t1", "a1", key_pair().registered, status="suspended")
    with pytest.raises(ServiceError, match="tenant is suspended"):
        await world.proofs.verify(VerifyAgent(agent_id="a1", ticket=ticket))


async def test_refusals_look_and_last_the_same(world: World) -> None:
    """Unknown tenant, unknown agent, no key, bad signature: one body, at the same time after the request.

    Registry takes longer for some than for others; that does not show.
    """
    world.registry.add("t1", "keyless")
    durations = []
    for registry_seconds, tenant_id, agent_id in (
        (0.001, "nobody", "a1"),
        (0.004, "t1", "nobody"),
        (0.009, "t1", "keyless"),
        (0.020, "t1", "a1"),
    ):
        challenge = await world.challenge(tenant_id, agent_id)
        world.registry.seconds = registry_seconds
        started = world.clock.monotonic()
        wrong = key_pair("ed25519", 1).response(challenge)
        await world.refused(challenge, agent_id=agent_id, signature=wrong)
        durations.append(world.clock.monotonic() - started)
    assert durations == pytest.approx([REFUSAL_SECONDS] * 4)


async def test_unknown_agent_costs_a_verification(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many signatures are checked for an unknown agent as for a known one with one key."""
    checked: list[str] = []
    real = signatures.verify

    def count(key: PublicKey, signature: Signature, message: bytes) -> bool:
        checked.append(key.kind)
        return real(key, signature, message)

    monkeypatch.setattr(signatures, "verify", count)
    costs = []
    for agent_id in ("a1", "nobody"):
        for make in (key_pair("ed25519", 1).response, lambda challenge: "not base64!"):
            challenge = await world.challenge("t1", agent_id)
            checked.clear()
            await world.refused(challenge, agent_id=agent_id, signature=make(challenge))
            costs.append(list(checked))
    assert costs == [["ssh-ed25519"]] * 4


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"challenge": "c"},
        {"signature": "s"},
        {"ticket": "t", "challenge": "c", "signature": "s"},
        {"ticket": "t", "signature": "s"},
        {"ticket": "t", "challenge": "c"},
    ],
)
async def test_proof_must_be_of_one_kind(world: World, given: dict[str, str]) -> None:
    """Neither both nor half of one."""
    with pytest.raises(ServiceError) as caught:
        await world.proofs.verify(VerifyAgent(agent_id="a1", **given))
    assert caught.value.code == ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize("bad", ["", "a.b", "a*", ">", "a b", "a" * 65, "\u00e9", "a\n"])
async def test_ids_are_checked_first(world: World, bad: str) -> None:
    """No id that could be a wildcard, a separator or something longer reaches the store or a subject."""
    attempts: list[Callable[[], Any]] = [
        lambda: world.proofs.challenge(bad, "a1", ""),
        lambda: world.proofs.challenge("t1", bad, ""),
        lambda: world.proofs.verify(VerifyAgent(agent_id=bad, challenge="c", signature="s")),
        lambda: world.proofs.verify(VerifyAgent(agent_id="a1", tenant_id=bad, challenge="c", signature="s")),
    ]
    for attempt in attempts:
        with pytest.raises(ServiceError) as caught:
            await attempt()
        assert caught.value.code == ErrorCode.INVALID_ARGUMENT
    assert world.store.records == {}


async def test_challenges_are_limited(world: World) -> None:
    """Beyond the rate nothing is written, and the answer says when to come back."""
    world = World(agent_rate=6)
    for _ in range(6):
        await world.challenge()
    with pytest.raises(ServiceError) as caught:
        await world.challenge()
    assert caught.value.code == ErrorCode.RESOURCE_EXHAUSTED
    assert caught.value.retry_after == pytest.approx(10)
    assert len(world.store.records) == 6
    world.clock.move(10)
    await world.challenge()


async def test_proofs_are_limited_by_address() -> None:
    """Guesses from one address stop before they reach the store; another address goes on."""
    world = World(address_rate=5)
    for _ in range(5):
        await world.refused("A" * 43)
    with pytest.raises(ServiceError) as caught:
        await world.prove("A" * 43)
    assert caught.value.code == ErrorCode.RESOURCE_EXHAUSTED
    assert world.store.taken == 5
    await world.refused("A" * 43, remote_address="192.0.2.2")


async def test_refusals_do_not_flood_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A flood of wrong proofs leaves a few lines, with the reason and nothing secret."""
    with caplog.at_level(logging.INFO):
        seen = []
        for _ in range(40):
            challenge = await world.challenge()
            wrong = key_pair("ed25519", 1).response(challenge)
            seen += [challenge, wrong]
            await world.refused(challenge, signature=wrong)
    records = [record for record in caplog.records if record.getMessage() == "agent_refused"]
    assert 1 <= len(records) <= 10
    assert {record.__dict__["reason"] for record in records} == {"signature"}
    everything = " ".join(str(record.__dict__) for record in caplog.records)
    assert not any(secret in everything for secret in seen)
