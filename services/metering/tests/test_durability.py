"""When a write counts as being on disk, with a server that says what the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from redis.exceptions import ResponseError

from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_metering import durability
from artcafe_metering.valkey import Command, WriteSession


class Server:
    """Answers INFO with the next of some states of its fsync; the last one stays."""

    def __init__(self, *pending: int, enabled: int = 1, status: str = "ok") -> None:
        self.pending = list(pending)
        self.enabled = enabled
        self.status = status
        self.looks: list[float] = []

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """Answer."""
        assert commands == [durability.LOOK]
        self.looks.append(asyncio.get_running_loop().time())
        pending = self.pending.pop(0) if len(self.pending) > 1 else self.pending[0]
        text = (
            "# Persistence\r\n"
            f"aof_enabled:{self.enabled}\r\naof_last_write_status:{self.status}\r\naof_pending_bio_fsync:{pending}"
        )
        return [text.encode()]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a second be shorter."""
    monkeypatch.setattr(durability, "LOOK_AGAIN_SECONDS", 0.05)


async def on_disk(server: Server, mode: durability.Mode = "everysec", confirmation: Any = (1, 0)) -> None:
    """Wait as the ledger does."""
    await durability.on_disk(cast(WriteSession, server), mode, confirmation)


async def test_two_quiet_looks_are_enough() -> None:
    """With no fsync running at either look, one has ended in between."""
    server = Server(0)
    await on_disk(server)
    # The second one is two questions.
    assert len(server.looks) == 3
    assert server.looks[1] - server.looks[0] >= 0.05


class StoodStill(Server):
    """A server that stood still between the first look and the second, and then goes on as Valkey does.

    What has come in by then is answered first, and the fsync that is due is started after it.
    """

    synced = False

    def __init__(self) -> None:
        super().__init__(0)
        self._ends_at = 0.0

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """Answer, and after a while start what is due."""
        now = asyncio.get_running_loop().time()
        if self._ends_at and now >= self._ends_at:
            self.synced = True
        self.pending = [int(bool(self._ends_at) and not self.synced)]
        answer = await super().send(commands)
        if now - self.looks[0] >= 0.05 and not self._ends_at:
            self._ends_at = now + 0.02
        return answer


async def test_a_server_that_stood_still_is_not_believed_before_it_has_synced() -> None:
    """Its first answer is of a time before the fsync that was due meanwhile."""
    server = StoodStill()
    await on_disk(server)
    assert server.synced


@pytest.mark.parametrize("pending", [(1, 0), (0, 1, 0), (0, 0, 1, 0), (1, 1, 0, 1, 0)])
async def test_an_fsync_that_runs_may_have_begun_too_early(pending: tuple[int, ...]) -> None:
    """One that runs at either look proves nothing: the two looks begin anew."""
    server = Server(*pending)
    await on_disk(server)
    assert server.pending == [0]
    assert server.looks[-2] - server.looks[-3] >= 0.05


async def test_a_disk_that_does_not_keep_up_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """An fsync that never ends is not waited for for ever."""
    monkeypatch.setattr(durability, "GIVE_UP_SECONDS", 0.3)
    with pytest.raises(ServiceError) as caught:
        await on_disk(Server(1))
    assert caught.value.code is ErrorCode.UNAVAILABLE


@pytest.mark.parametrize("server", [Server(0, enabled=0), Server(0, status="err")])
async def test_a_file_that_is_not_written_is_unavailable(server: Server) -> None:
    """Without an append-only file, or with one that cannot be written, nothing is on disk."""
    with pytest.raises(ServiceError):
        await on_disk(server)
    with pytest.raises(ServiceError):
        await durability.keeps_a_log(cast(WriteSession, server))


@pytest.mark.parametrize("confirmation", [(0, 0), ResponseError("WAITAOF cannot be used")])
async def test_without_confirmation_it_is_unavailable(confirmation: Any) -> None:
    """A wait that ran out of time, or that the server refuses, confirms nothing in either mode."""
    for mode in ("always", "everysec"):
        with pytest.raises(ServiceError):
            await on_disk(Server(0), mode, confirmation)


async def test_a_server_that_always_syncs_is_believed() -> None:
    """With `appendfsync always` the confirmation is enough."""
    server = Server(1)
    await on_disk(server, "always")
    assert server.looks == []


@pytest.mark.parametrize(
    ("answer", "mode"),
    [
        ([b"appendfsync", b"always"], "always"),
        ([b"appendfsync", b"everysec"], "everysec"),
        ([b"no-appendfsync-on-rewrite", b"no", b"appendfsync", b"always"], "always"),
        ([], "everysec"),
        (ResponseError("NOPERM"), "everysec"),
    ],
)
def test_a_mode_that_is_not_told_is_the_careful_one(answer: Any, mode: str) -> None:
    """Only a server that says `always` is taken at its word."""
    assert durability.mode_of(answer) == mode


@pytest.mark.parametrize(
    "answer",
    [
        [b"appendfsync", b"no"],
        [b"appendfsync", b"always", b"no-appendfsync-on-rewrite", b"yes"],
    ],
)
def test_a_server_that_leaves_syncing_to_chance_is_refused(answer: list[bytes]) -> None:
    """Where nobody syncs the file, or not while it is rewritten, nothing can be confirmed."""
    with pytest.raises(ServiceError):
        durability.mode_of(answer)
