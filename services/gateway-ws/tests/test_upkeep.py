"""Open sessions when something behind them changes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from gateway_fakes import FakeTransport, House, connect, settle

from artcafe_common.bus import Bus
from artcafe_common.contracts.auth import Revoked
from artcafe_common.contracts.registry import (
    GET_AGENT,
    GET_GRANTS,
    GET_TENANT,
    AgentInfo,
    AgentKey,
    Changed,
    GetAgent,
    GetGrants,
    GetTenant,
    Grant,
    Grants,
    Limits,
    TenantInfo,
)
from artcafe_common.errors import CloseCode, ServiceError, not_found, unavailable
from artcafe_gateway import changes_view as changes_view_module
from artcafe_gateway import upkeep as upkeep_module
from artcafe_gateway.agent_session import AgentSession
from artcafe_gateway.changes_view import ChangesView
from artcafe_gateway.store import ConnectionStore, Holder
from artcafe_gateway.upkeep import Upkeep


class Office:
    """An upkeep, and registry as it asks it."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.keys: dict[str, list[str]] = {}
        self.grants: dict[str, list[Grant]] = {}
        self.error: ServiceError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        house.bus.serve(GET_AGENT, self.agent)
        house.bus.serve(GET_GRANTS, self.get_grants)
        house.bus.serve(GET_TENANT, self.tenant)
        self.changes = ChangesView()
        self.dashboards: list[Any] = []
        self.upkeep = Upkeep(
            cast(Bus, house.bus),
            house.clock,
            cast(ConnectionStore, house.store),
            house.directory,
            house.fanout,
            house.presences,
            self.dashboards,
            self.changes,
            house.background,
        )

    async def agent(self, request: GetAgent) -> AgentInfo:
        """Return an agent with its keys."""
        await self.wait()
        if request.agent_id not in self.keys:
            raise not_found("agent")
        return AgentInfo(
            tenant_id="t",
            agent_id=request.agent_id,
            name="",
            tenant_status="active",
            keys=[AgentKey(fingerprint=f, public_key="") for f in self.keys[request.agent_id]],
        )

    async def get_grants(self, request: GetGrants) -> Grants:
        """Return an agent's rows as they are when it asks."""
        found = Grants(self.grants.get(request.agent_id, []))
        await self.wait()
        return found

    async def tenant(self, request: GetTenant) -> TenantInfo:
        """Return the tenant."""
        await self.wait()
        return TenantInfo(
            tenant_id="t",
            name="",
            status="active",
            plan="pro",
            limits=Limits(),
            auto_create_channels=True,
        )

    async def wait(self) -> None:
        """Wait for the gate, then fail where the test says so."""
        await self.gate.wait()
        if self.error is not None:
            raise self.error

    def open(self, agent_id: str) -> tuple[AgentSession, FakeTransport]:
        """Open a session of an agent that registry knows."""
        self.keys[agent_id] = [f"SHA256:{agent_id}"]
        return self.house.open(agent_id)

    async def change(self, kind: str, id: str, action: str = "updated") -> None:
        """Announce a change."""
        await self.upkeep.on_changed(Changed(tenant_id="t", kind=kind, id=id, action=action))


@pytest.fixture
async def office(house: House, monkeypatch: pytest.MonkeyPatch) -> Office:
    """Give an office whose patience is short."""
    monkeypatch.setattr(upkeep_module, "RETRY_SECONDS", 0.002)
    monkeypatch.setattr(upkeep_module, "RECHECK_PER_SECOND", 1_000_000)
    return Office(house)


async def test_dashboards_hear_of_changes_and_of_those_that_were_missed(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What registry announces, and that something may have been while the bus was away."""
    monkeypatch.setattr(changes_view_module, "PAUSE_SECONDS", 0.0)
    connection, transport = connect()
    office.changes.watch("t", connection, frozenset({"agent"}))
    await office.change("agent", "alice", "created")
    await asyncio.sleep(0.01)
    office.upkeep.recheck_all()
    await asyncio.sleep(0.01)
    assert [event["type"] for event in transport.events] == ["changed", "changes_missed"]


def revoked(**fields: Any) -> Revoked:
    """Return a revocation in tenant t."""
    return Revoked(**{"tenant_id": "t", "reason": "key_revoked"} | fields)


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (revoked(agent_id="alice"), 4501),
        (revoked(agent_id="alice", fingerprint="SHA256:alice"), 4501),
        (revoked(agent_id="alice", reason="agent_deleted"), 4501),
        (revoked(reason="tenant_suspended"), 4502),
        (revoked(reason="tenant_deleted"), 4501),
        (revoked(agent_id="alice", fingerprint="SHA256:another"), None),
        (revoked(agent_id="bob"), None),
        (revoked(agent_id="alice", tenant_id="t2"), None),
        (revoked(tenant_id="t2", reason="tenant_suspended"), None),
    ],
)
async def test_a_revocation_closes_what_it_names(office: Office, event: Revoked, code: int | None) -> None:
    """A key, an agent or a whole tenant, and nothing beside it."""
    _, transport = office.open("alice")
    await office.upkeep.on_revoked(event)
    assert transport.close_codes == ([] if code is None else [code])


async def test_a_revocation_during_a_restart_is_the_end_as_well(office: Office) -> None:
    """What is still heard while a server leaves is not heard of those who may not say it any more."""
    session, _ = office.open("alice")
    session.connection.close(CloseCode.RESTART, "the server restarts", end="restart")
    publish = b'{"type":"publish","channel":"room","data":1}'
    session.on_text(publish)
    await office.house.background.wait()
    await office.upkeep.on_revoked(revoked(agent_id="alice"))
    session.on_text(publish)
    await office.house.background.wait()
    said = [subject for subject, _ in office.house.bus.published if subject == "tenant.t.channel.room"]
    assert len(said) == 1
    assert session.connection.deaf


class Desk:
    """A dashboard as far as upkeep looks at it."""

    def __init__(self, *, is_expiring: bool = False) -> None:
        self.is_expiring = is_expiring
        self.ended = False
        self.checked = 0

    async def recheck(self) -> None:
        """Count that the membership was asked for."""
        self.checked += 1


async def test_dashboards_are_checked_now_and_then(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every loss of a right is announced. One whose token ends is not taken for a stranger."""
    monkeypatch.setattr(upkeep_module, "DASHBOARDS_RECHECKED_SECONDS", 0.002)
    lasting, ending = Desk(), Desk(is_expiring=True)
    office.dashboards += [lasting, ending]
    running = asyncio.create_task(office.upkeep.recheck_dashboards())
    async with asyncio.timeout(30):
        while lasting.checked < 3:
            await asyncio.sleep(0.001)
    running.cancel()
    await office.house.background.wait()
    assert ending.checked == 0


@pytest.mark.parametrize("event", [revoked(agent_id="alice"), revoked(reason="tenant_suspended")])
async def test_a_revocation_during_the_handshake_closes_the_session_that_opens(
    office: Office, event: Revoked
) -> None:
    """A session that was proven before the revocation and opens after it does not stay."""
    started = office.house.clock.monotonic()
    await office.upkeep.on_revoked(event)
    office.house.clock.move(2)
    session, transport = office.open("alice")
    office.upkeep.agent_opened(session, started)
    assert len(transport.close_codes) == 1
    later, transport = office.open("alice")
    office.upkeep.agent_opened(later, office.house.clock.monotonic())
    assert transport.close_codes == []


async def test_rows_that_changed_during_the_handshake_are_asked_for_again(office: Office) -> None:
    """A session that opens with rows of before a change gets those of after it."""
    started = office.house.clock.monotonic()
    await office.change("grants", "alice")
    session, _ = office.open("alice")
    office.grants["alice"] = [Grant(channel_id="c", role="both")]
    office.upkeep.agent_opened(session, started)
    await office.house.background.wait()
    assert set(session.grants) == {"c"}


async def test_a_registry_that_hangs_delays_no_other_change(office: Office) -> None:
    """Handling a change returns at once; revocations and other agents' changes are not behind it."""
    office.open("alice")
    office.gate.clear()
    async with asyncio.timeout(30):
        for _ in range(100):
            await office.change("grants", "alice")
            await office.change("tenant", "t")
        await office.upkeep.on_revoked(revoked(agent_id="alice"))
    office.gate.set()
    await office.house.background.wait()
    assert sum(subject == "registry.v1.agent.grants" for subject, _ in office.house.bus.asked) <= 2


async def test_of_many_changes_of_an_agents_rows_the_last_one_holds(office: Office) -> None:
    """Answers cannot overtake each other, since one question is asked at a time."""
    session, _ = office.open("alice")
    office.gate.clear()
    for number in range(5):
        office.grants["alice"] = [Grant(channel_id=f"c{number}", role="both")]
        await office.change("grants", "alice")
        await settle()
    office.gate.set()
    await office.house.background.wait()
    assert set(session.grants) == {"c4"}


async def test_rows_that_cannot_be_had_close_the_session_after_some_attempts(office: Office) -> None:
    """A registry that is away for a moment costs nobody the connection; one that stays away does."""
    session, transport = office.open("alice")
    office.error = unavailable("registry")
    await office.change("grants", "alice")
    await settle()
    assert transport.close_codes == []
    await office.house.background.wait()
    assert transport.close_codes == [1012]
    assert session.connection.deaf


async def test_a_new_channel_costs_nothing(office: Office) -> None:
    """That a channel was created changes nobody's rights and asks nobody."""
    office.open("alice")
    await office.change("channel", "c", "created")
    await office.house.background.wait()
    assert office.house.bus.asked == []


async def test_a_change_of_a_tenant_that_is_not_here_asks_nothing(office: Office) -> None:
    """Only gateways that have the tenant ask for it."""
    await office.change("tenant", "t")
    await office.house.background.wait()
    assert office.house.bus.asked == []


async def test_everyone_is_checked_until_every_answer_has_come(office: Office) -> None:
    """After the bus was away registry may come back later: nobody is forgotten, and nobody closed for it."""
    kept, kept_transport = office.open("kept")
    _, revoked_transport = office.open("revoked")
    _, deleted_transport = office.open("deleted")
    moved, moved_transport = office.open("moved")
    office.keys["revoked"] = ["SHA256:another"]
    del office.keys["deleted"]
    office.house.store.holders["t", "moved"] = Holder("other", "C2")
    office.grants["kept"] = [Grant(channel_id="c", role="both")]
    office.error = unavailable("registry")
    office.upkeep.recheck_all()
    await asyncio.sleep(0.01)
    assert not any(
        transport.close_codes
        for transport in (kept_transport, revoked_transport, deleted_transport, moved_transport)
    )
    office.error = None
    await office.house.background.wait()
    assert kept_transport.close_codes == [] and set(kept.grants) == {"c"}
    assert revoked_transport.close_codes == [4501]
    assert deleted_transport.close_codes == [4501]
    assert moved_transport.close_codes == [4006]
    assert moved.connection.deaf


async def test_checking_stops_while_the_bus_is_away_again(office: Office) -> None:
    """It begins anew with the next return of the bus."""
    office.open("alice")
    office.error = unavailable("registry")
    office.upkeep.recheck_all()
    await settle()
    office.house.bus.is_connected = False
    async with asyncio.timeout(30):
        await office.house.background.wait()
