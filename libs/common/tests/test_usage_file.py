"""The counter file: what is in it after a kill at any moment, and what becomes of files that are damaged."""

from __future__ import annotations

import errno
import mmap
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from artcafe_common import metrics
from artcafe_common.config import SharedConfig
from artcafe_common.service import StartError
from artcafe_common.usage import HOUR_SECONDS, UsageCounter, counter_file, open_usage_counter
from artcafe_common.usage.counter_file import (
    FIRST_ROWS,
    HEADER_BYTES,
    ROW_BYTES,
    CounterFile,
    open_counter_file,
)
from artcafe_common.usage.leftovers import AGE_SECONDS_MAX, Leftover, claim
from artcafe_common.usage.span import ROWS_PER_BATCH, Span

from .support import FrozenClock

Batches = dict[tuple[str, int], list[Any]]

# Counts in one row, releasing it again and again, and says how far it came.
COUNTING = """
import sys
from artcafe_common.clock import SystemClock
from artcafe_common.usage.counter_file import open_counter_file

file = open_counter_file(sys.argv[1], SystemClock())
slot = file.add(400_000, 0.0, ("t", "a", "c"))
for number in range(1, 400_000):
    file.save_accepted(slot, number, number * 10)
    file.save_api_calls(slot, number)
    file.save_rest(slot, number, number * 10, number / 2)
    file.release([], number)
    if number == 1:
        print(file.path, flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def clock() -> FrozenClock:
    """The time of the machine, at the beginning of an hour: age is told by the files' own."""
    return FrozenClock(time.time() // HOUR_SECONDS * HOUR_SECONDS)


@pytest.fixture
def counter(tmp_path: Path, clock: FrozenClock) -> UsageCounter:
    """A counter with a file."""
    return UsageCounter(clock, open_counter_file(str(tmp_path), clock))


def killed(counter: UsageCounter) -> Path:
    """Return a folder with the file as it would be were its process killed now."""
    assert counter.file is not None
    folder = counter.file.folder
    copy = folder.with_name("killed")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    return copy


def found(folder: Path) -> Leftover:
    """Claim the one file in a folder."""
    leftover = claim(folder, set())
    assert leftover is not None
    return leftover


def batches_of(spans: list[Span]) -> Batches:
    """Return rows by name of the batch, leaving out what is nothing."""
    return {(batch.source, batch.seq): list(batch.rows) for span in spans for batch in span.batches()}


def count(counter: UsageCounter, agent_id: str = "a", size: int = 10) -> None:
    """Count a message."""
    counter.message(counter.now(), "t", agent_id, "c", size)


def test_what_was_counted_is_found_at_once(counter: UsageCounter) -> None:
    """Every message and call is in the file as soon as it was counted, under the number it will have."""
    count(counter)
    count(counter)
    count(counter, "b", 7)
    counter.api_call("t")
    leftover = found(killed(counter))
    [span] = counter.take()
    assert batches_of(leftover.spans) == batches_of([span])
    assert span.messages == 3
    assert leftover.spans[0].start == span.start


def test_no_moment_of_a_store_shows_a_count_that_was_never_true(tmp_path: Path) -> None:
    """Whoever looks while a process counts sees each number grow: SIGKILL finds no moment to take one."""
    command = [sys.executable, "-c", COUNTING, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        path = Path(process.stdout.readline().strip())
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            row = HEADER_BYTES // 8
            with memoryview(mapped).cast("q") as numbers, memoryview(mapped).cast("d") as times:
                # The floor; messages, bytes in, API calls, deliveries, bytes out; connection seconds.
                places: list[tuple[memoryview[Any], int]] = [(numbers, 256 // 8)]
                places += [(numbers, row + at) for at in range(2, 7)]
                places += [(times, row + 7)]
                seen: list[float] = [0.5] * len(places)
                looks = 0
                # It goes on once it is looked at.
                process.stdin.write("\n")
                process.stdin.flush()
                while process.poll() is None:
                    now = [view[place] for view, place in places]
                    assert all(new >= old for new, old in zip(now, seen, strict=True)), (seen, now)
                    seen = now
                    looks += 1
                seen = [view[place] for view, place in places]
    assert looks > 1_000
    assert seen == [399_999, 399_999, 3_999_990, 399_999, 399_999, 3_999_990, 199_999.5]


def test_what_is_added_up_elsewhere_is_found_when_it_has_been_settled(counter: UsageCounter) -> None:
    """Deliveries and seconds are stored whenever counts are settled, and right again after each change."""
    tally = counter.tally(counter.now(), "t", "a", "c")
    tally.deliveries, tally.bytes_out, tally.connection_seconds = 3, 30, 1.23456
    counter.settle()
    count(counter)
    leftover = found(killed(counter))
    assert batches_of(leftover.spans) == batches_of(counter.take())
    [row] = leftover.spans[0].rows
    assert (row.messages, row.deliveries, row.bytes_out, row.connection_seconds) == (1, 3, 30, 1.235)


def test_a_span_that_was_sent_and_not_acknowledged_makes_the_same_batches(
    counter: UsageCounter, clock: FrozenClock
) -> None:
    """A closed span and the open one after it are told apart, and keep their numbers and rows."""
    for number in range(ROWS_PER_BATCH + 10):
        count(counter, f"a{number}")
    [sent] = counter.take()
    clock.move(1)
    count(counter)
    leftover = found(killed(counter))
    assert batches_of(leftover.spans) == batches_of([sent, *counter.take()])


def test_what_was_acknowledged_is_not_found_again(counter: UsageCounter, clock: FrozenClock) -> None:
    """From the acknowledgement on a span's rows are no more, and its slots are used again."""
    assert counter.file is not None
    for _ in range(20):
        for number in range(FIRST_ROWS):
            count(counter, f"a{number}")
        [span] = counter.take()
        counter.acknowledged(span)
        clock.move(1)
        assert found(killed(counter)).spans == []
    assert counter.file.path.stat().st_size == HEADER_BYTES + FIRST_ROWS * ROW_BYTES


def test_hours_that_wait_are_found_each_for_itself(counter: UsageCounter, clock: FrozenClock) -> None:
    """While nothing is acknowledged each hour is a span, with the same rows in the file as in memory."""
    spans = []
    for _ in range(3):
        count(counter)
        count(counter, "b")
        clock.move(HOUR_SECONDS)
        count(counter)
        spans += counter.take_closed()
    leftover = found(killed(counter))
    assert len(leftover.spans) == 4
    assert batches_of(leftover.spans) == batches_of([*spans, *counter.take()])


def test_rows_of_random_lives_are_never_lost_or_doubled(tmp_path: Path, clock: FrozenClock) -> None:
    """However counting, closing and acknowledging follow one another, a kill leaves exactly what is due.

    What metering would have after the kill, with each (source, seq) applied once, is all that was counted.
    """
    for seed in range(30):
        chance = random.Random(seed)
        (tmp_path / str(seed)).mkdir()
        counter = UsageCounter(clock, open_counter_file(str(tmp_path / str(seed)), clock))
        applied: Batches = {}
        waiting: list[Span] = []
        counted = 0
        for _ in range(chance.randrange(200)):
            match chance.randrange(8):
                case 0:
                    waiting += counter.take()
                case 1 if waiting:
                    # Sent, and perhaps killed before the acknowledgement was noted.
                    applied |= batches_of(waiting[:1])
                    if chance.random() < 0.7:
                        counter.acknowledged(waiting.pop(0))
                case 2:
                    clock.move(chance.choice((0.1, 1, HOUR_SECONDS)))
                case _:
                    count(counter, f"a{chance.randrange(70)}")
                    counted += 1
        for name, rows in batches_of(found(killed(counter)).spans).items():
            assert applied.setdefault(name, rows) == rows, f"seed {seed}"
        assert sum(row.messages for rows in applied.values() for row in rows) == counted, f"seed {seed}"


def test_a_file_in_use_is_nobody_elses(counter: UsageCounter) -> None:
    """What belongs to a living process is not touched; once that has ended, one other gets it."""
    assert counter.file is not None
    count(counter)
    assert claim(counter.file.folder, set()) is None
    counter.file.close(remove=False)
    leftover = found(counter.file.folder)
    assert claim(counter.file.folder, set()) is None
    leftover.give_back()
    again = found(counter.file.folder)
    assert again.spans[0].messages == 1
    again.finish()
    assert list(counter.file.folder.iterdir()) == []


def test_a_file_that_is_not_needed_any_more_is_removed(counter: UsageCounter) -> None:
    """A process that has sent everything leaves nothing."""
    assert counter.file is not None
    counter.file.close(remove=True)
    assert list(counter.file.folder.iterdir()) == []


@pytest.mark.parametrize("length", [0, 100, HEADER_BYTES - 1])
def test_a_file_without_its_header_is_set_aside(
    counter: UsageCounter, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Where not even the source can be read the file is kept for a person, and others go on."""
    count(counter)
    folder = killed(counter)
    [path] = folder.iterdir()
    os.truncate(path, length)
    found(folder).finish()
    assert [each.suffix for each in folder.iterdir()] == [".damaged"]
    assert [record.message for record in caplog.records] == ["usage_file_unreadable", "usage_file_set_aside"]
    assert claim(folder, set()) is None


def test_a_file_that_cannot_be_opened_holds_up_no_other(
    counter: UsageCounter, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once, and passed over."""
    count(counter)
    folder = killed(counter)
    (folder / "0.counters").mkdir()
    useless: set[Path] = set()
    for _ in range(2):
        leftover = claim(folder, useless)
        assert leftover is not None and leftover.spans[0].messages == 1
        leftover.give_back()
    assert [record.message for record in caplog.records] == ["usage_file_unreadable"]


def test_a_file_whose_end_is_missing_gives_what_it_has(
    counter: UsageCounter, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a truncated file the whole rows are sent, and it is set aside."""
    for number in range(10):
        count(counter, f"a{number}")
    folder = killed(counter)
    [path] = folder.iterdir()
    os.truncate(path, HEADER_BYTES + 4 * ROW_BYTES + 100)
    leftover = found(folder)
    assert leftover.spans[0].messages == 4
    leftover.finish()
    assert [each.suffix for each in folder.iterdir()] == [".damaged"]
    assert "usage_file_damaged" in [record.message for record in caplog.records]


@pytest.mark.parametrize("place", [0, 8, 12, 64, 68, 69, 70, 72])
def test_a_damaged_row_is_not_sent(counter: UsageCounter, place: int) -> None:
    """A row whose ids, start or span are not what was written is left out; the file is set aside."""
    for number in range(3):
        count(counter, f"a{number}")
    folder = killed(counter)
    [path] = folder.iterdir()
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES + ROW_BYTES + place)
        old = file.read(8)
        file.seek(HEADER_BYTES + ROW_BYTES + place)
        file.write(bytes(byte ^ 0xFF for byte in old))
    leftover = found(folder)
    assert [row.agent_id for span in leftover.spans for row in span.rows] == ["a0", "a2"]
    assert leftover.damage == "damaged"


def test_any_damage_is_survived(counter: UsageCounter) -> None:
    """Whatever bytes a file has, reading it neither fails nor yields ids or counts that were never there."""
    for number in range(20):
        count(counter, f"a{number}")
    folder = killed(counter)
    [path] = folder.iterdir()
    whole = path.read_bytes()
    chance = random.Random(7)
    for _ in range(300):
        content = bytearray(whole[: chance.choice((len(whole), chance.randrange(len(whole))))])
        for _ in range(chance.randrange(40)):
            if content:
                content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
        leftover = found(folder)
        for span in leftover.spans:
            for batch in span.batches():
                assert all(row.tenant_id == "t" and row.channel_id == "c" for row in batch.rows)
        leftover.give_back()


def test_a_file_that_metering_might_have_forgotten_is_not_billed(
    tmp_path: Path, clock: FrozenClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that comes back after more than two weeks is for a person to look at."""
    clock.time -= AGE_SECONDS_MAX + 60
    counter = UsageCounter(clock, open_counter_file(str(tmp_path), clock))
    count(counter)
    folder = killed(counter)
    leftover = found(folder)
    assert leftover.spans == []
    leftover.finish()
    assert [each.suffix for each in folder.iterdir()] == [".expired"]
    assert "usage_file_set_aside" in [record.message for record in caplog.records]


def test_without_room_on_the_disk_counting_goes_on_in_memory(
    counter: UsageCounter,
    clock: FrozenClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a full disk nothing is lost while the process lives, it is told, and the file grows later."""
    assert counter.file is not None

    def full(fd: int, first: int, end: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for number in range(FIRST_ROWS - 1):
        count(counter, f"a{number}")
    with monkeypatch.context() as disk:
        disk.setattr(counter_file, "_write_zeros", full)
        for number in range(FIRST_ROWS + 9):
            count(counter, f"a{number}")
        found_on_disk = batches_of(found(killed(counter)).spans)
        [span] = counter.take()
    assert [record.message for record in caplog.records] == ["usage_not_on_disk"]
    assert metrics.USAGE_DURABLE._value.get() == 0
    assert span.messages == 2 * FIRST_ROWS + 8
    # What is on the disk is in batches of its own.
    assert found_on_disk == {(span.source, 1): span.chunks[0]}
    assert [len(chunk) for chunk in span.chunks] == [FIRST_ROWS, 9]
    clock.move(60)
    for number in range(FIRST_ROWS + 9):
        count(counter, f"a{number}")
    [after] = counter.take()
    assert len(after.slots) == FIRST_ROWS + 9
    assert metrics.USAGE_DURABLE._value.get() == 1


def test_a_full_disk_at_the_start_does_not_stop_it(
    tmp_path: Path, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process starts on a full disk, and has its file when there is room."""

    def full(self: CounterFile) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(CounterFile, "create", full)
        counter = UsageCounter(clock, open_counter_file(str(tmp_path), clock))
        count(counter)
        [span] = counter.take()
    assert (span.messages, span.slots) == (1, [])
    clock.move(60)
    count(counter)
    assert [each.messages for each in found(killed(counter)).spans] == [1]


def test_a_folder_that_is_no_use_stops_the_start(tmp_path: Path, clock: FrozenClock) -> None:
    """A missing folder is a wrong setting, named in one line."""
    with pytest.raises(StartError, match=r"^ARTCAFE_STATE_DIR: .*/nowhere/usage: No such file or directory$"):
        open_counter_file(str(tmp_path / "nowhere"), clock)


def test_without_a_folder_it_is_told_that_counts_are_in_memory(
    clock: FrozenClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody loses usage without having been told."""
    counter = open_usage_counter(SharedConfig(nats_url="nats://x", usage_spool_mib=1), clock)
    assert counter.file is None
    assert [record.message for record in caplog.records] == ["usage_in_memory_only"]
    count(counter)
    assert [span.messages for span in counter.take()] == [1]


def test_the_longest_ids_fit(counter: UsageCounter) -> None:
    """Ids of any allowed length are in the file."""
    counter.message(counter.now(), "t" * 64, "a" * 64, "c" * 128, 1)
    [row] = found(killed(counter)).spans[0].rows
    assert (row.tenant_id, row.agent_id, row.channel_id) == ("t" * 64, "a" * 64, "c" * 128)
