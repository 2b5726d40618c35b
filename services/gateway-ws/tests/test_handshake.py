"""From an upgrade to a session."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote

import pytest
from gateway_fakes import FakePeer, connect, settle

from artcafe_common.errors import CloseCode, ErrorCode, Quota, ServiceError, unavailable
from artcafe_gateway.connection import Connection
from artcafe_gateway.handshake import (
    AgentHello,
    DashboardHello,
    Handshake,
    close_code_of,
    read_hello,
)
from artcafe_gateway.listener import Upgrade

SIGNATURE = "a+b/c+d/e=="


def hello(target: str, **headers: str) -> AgentHello | DashboardHello | None:
    """Read a hello from a target and headers."""
    return read_hello(Upgrade(target, {k.replace("_", "-"): v for k, v in headers.items()}, "10.0.0.9"))


@pytest.mark.parametrize("prefix", ["/ws", "/api/v1/ws"])
@pytest.mark.parametrize("signature", [SIGNATURE, quote(SIGNATURE, safe=""), quote(SIGNATURE, safe="/")])
def test_an_agents_proof_is_read_encoded_or_not(prefix: str, signature: str) -> None:
    """Base64 keeps its plus and slash whether they were percent-encoded or not, on both paths."""
    assert hello(f"{prefix}/agent/bob?challenge=c-1&signature={signature}") == AgentHello(
        agent_id="bob",
        tenant_id=None,
        challenge="c-1",
        signature=SIGNATURE,
        ticket=None,
        remote_address="10.0.0.9",
    )


def test_a_ticket_comes_by_query_or_header() -> None:
    """Both ways to bring a ticket work, the query first."""
    by_query = hello("/ws/agent/bob?ticket=T1")
    by_header = hello("/ws/agent/bob", authorization="ticket T2")
    both = hello("/ws/agent/bob?ticket=T1", authorization="Ticket T2")
    assert [found.ticket for found in (by_query, by_header, both) if isinstance(found, AgentHello)] == [
        "T1",
        "T2",
        "T1",
    ]


def test_a_bearer_token_is_no_ticket() -> None:
    """Credentials of another kind are not taken for an agent's."""
    found = hello("/ws/agent/bob", authorization="Bearer x")
    assert isinstance(found, AgentHello)
    assert found.ticket is None


@pytest.mark.parametrize("prefix", ["/ws", "/api/v1/ws"])
def test_a_dashboard_brings_its_token_by_query_header_or_later(prefix: str) -> None:
    """A token may come three ways, and the tenant two."""
    assert hello(f"{prefix}/dashboard?token=a.b.c&tenant_id=t1") == DashboardHello("a.b.c", "t1")
    assert hello(f"{prefix}/dashboard", authorization="Bearer  x ", x_tenant_id="t2") == DashboardHello(
        "x", "t2"
    )
    assert hello(f"{prefix}/dashboard") == DashboardHello(None, None)


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/ws",
        "/ws/",
        "/ws/agent",
        "/ws/agent/",
        "/ws/agent/a.b",
        "/ws/agent/a%20b",
        "/ws/agent/bob/x",
        "/ws/agent/" + "x" * 65,
        "/ws/other/bob",
        "/ws/dashboards",
        "/api/v2/ws/agent/bob",
        "//ws/agent/bob",
        "http://evil/ws/agent/bob",
    ],
)
def test_other_paths_are_nothing(target: str) -> None:
    """Nothing else is a socket, and an id outside the grammar is refused before anybody is asked."""
    assert hello(target) is None


@pytest.mark.parametrize("query", ["", "&&&", "=", "a=b=c", "token", "%", "token=%zz", "x" * 5000])
def test_a_strange_query_is_no_error(query: str) -> None:
    """Whatever a client appends, reading it does not fail."""
    assert isinstance(hello(f"/ws/dashboard?{query}"), DashboardHello)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServiceError(ErrorCode.UNAUTHENTICATED, "no"), CloseCode.BAD_CREDENTIALS),
        (ServiceError(ErrorCode.PERMISSION_DENIED, "not a member"), CloseCode.BAD_CREDENTIALS),
        (ServiceError(ErrorCode.PERMISSION_DENIED, "it is suspended"), CloseCode.TENANT_SUSPENDED),
        (ServiceError(ErrorCode.NOT_FOUND, "tenant not found"), CloseCode.BAD_CREDENTIALS),
        (ServiceError(ErrorCode.INVALID_ARGUMENT, "which one"), CloseCode.BAD_CREDENTIALS),
        (ServiceError(ErrorCode.RESOURCE_EXHAUSTED, "slow down"), CloseCode.RATE),
        (
            ServiceError(ErrorCode.RESOURCE_EXHAUSTED, "full", quota=Quota("connections", 1, 1, "free")),
            CloseCode.QUOTA,
        ),
        (unavailable("auth"), CloseCode.UNAVAILABLE),
        (ServiceError(ErrorCode.INTERNAL, "internal error"), CloseCode.INTERNAL),
    ],
)
def test_the_close_code_says_whether_to_come_back(error: ServiceError, code: int) -> None:
    """Each failure of a handshake closes with the code whose range tells the client what to do."""
    assert close_code_of(error) == code


class Door:
    """A handshake on a fake connection, and what happens in it."""

    def __init__(self, timeout: float = 5.0) -> None:
        self.connection, self.transport = connect()
        self.handshake = Handshake("agent", timeout)
        self.connection.peer = self.handshake
        self.session = FakePeer()
        self.opened = asyncio.Event()
        self.error: Exception | None = None

    def start(self) -> None:
        """Begin."""
        self.handshake.start(self.connection, self.authenticate)

    async def authenticate(self, connection: Connection) -> None:
        """Wait until the test says who it is."""
        await self.opened.wait()
        if self.error is not None:
            raise self.error
        self.handshake.hand_over(self.session)


@pytest.fixture
async def door() -> Door:
    """Give a handshake that waits."""
    return Door()


async def test_what_came_early_is_heard_by_the_session_before_what_comes_next(door: Door) -> None:
    """Frames that were sent before the welcome wait, and keep their order."""
    door.start()
    for number in range(3):
        door.connection.peer.on_text(b"%d" % number)
    # What comes after these stays in the client meanwhile.
    reading = [door.transport.reading]
    door.opened.set()
    await settle()
    assert [*reading, door.transport.reading] == [False, True]
    door.connection.peer.on_text(b"3")
    assert door.session.texts == [b"0", b"1", b"2", b"3"]


async def test_too_much_before_authentication_closes(door: Door) -> None:
    """A client that floods a handshake is closed for breaking the protocol, once."""
    door.start()
    for _ in range(50):
        door.handshake.on_text(b"{}")
    assert door.transport.close_codes == [CloseCode.PROTOCOL]
    assert len(door.handshake._early) <= 33


async def test_too_many_bytes_before_authentication_close(door: Door) -> None:
    """A few large frames are bounded like many small ones."""
    door.start()
    for _ in range(5):
        door.handshake.on_text(b"x" * 65_536)
    assert door.transport.close_codes == [CloseCode.PROTOCOL]


async def test_a_client_that_does_not_prove_itself_in_time_is_closed() -> None:
    """The deadline closes with a code that lets clients come back."""
    door = Door(timeout=0.01)
    door.start()
    async with asyncio.timeout(30):
        while not door.connection.closing:
            await asyncio.sleep(0.005)
    assert door.transport.close_codes == [CloseCode.UNAVAILABLE]


async def test_a_refusal_is_told_before_the_close(door: Door) -> None:
    """Clients that read frames, not close codes, learn why."""
    door.error = ServiceError(ErrorCode.UNAUTHENTICATED, "the proof does not hold")
    door.start()
    door.opened.set()
    await settle()
    assert [(event["type"], event["code"]) for event in door.transport.events] == [
        ("error", "unauthenticated")
    ]
    assert door.transport.close_codes == [CloseCode.BAD_CREDENTIALS]


async def test_a_bug_in_a_handshake_tells_nothing(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is logged, and the client hears only that there was one."""
    door.error = RuntimeError("secret")
    door.start()
    door.opened.set()
    await settle()
    assert door.transport.close_codes == [CloseCode.INTERNAL]
    assert b"secret" not in door.transport.written
    assert "handshake_failed" in caplog.text


async def test_a_client_that_leaves_ends_its_handshake(door: Door) -> None:
    """Nothing goes on for a client that has gone."""
    door.start()
    await settle()
    door.connection.lost()
    await settle()
    assert door.handshake._task is not None and door.handshake._task.cancelled()


@pytest.mark.parametrize("early", [True, False])
async def test_the_first_frame_may_bring_the_token(door: Door, early: bool) -> None:
    """It is found whether it came before or after it was waited for."""
    door.start()
    payload = json.dumps({"type": "authenticate", "token": "T", "tenant_id": "t1"}).encode()
    if early:
        door.handshake.on_text(payload)
    waiting = asyncio.create_task(door.handshake.first_frame())
    await settle()
    if not early:
        door.handshake.on_text(payload)
    assert await waiting == ("T", "t1")


@pytest.mark.parametrize("payload", [b"{}", b"[]", b"\xff", b'{"token":5}', b"", b"[" * 100_000])
async def test_a_first_frame_without_token_is_refused(door: Door, payload: bytes) -> None:
    """Whatever else comes first does not authenticate anybody."""
    door.start()
    door.handshake.on_text(payload)
    with pytest.raises(ServiceError) as caught:
        await door.handshake.first_frame()
    assert caught.value.code == ErrorCode.UNAUTHENTICATED
