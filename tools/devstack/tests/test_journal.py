"""The journal's files, apart from any emulator."""

import errno
import os
from pathlib import Path

import pytest

from artcafe_devstack.emulator.journal import Journal


def _opened(folder: Path) -> tuple[Journal, bytes | None, list[tuple[dict[str, object], bytes]]]:
    journal = Journal(folder)
    return journal, journal.snapshot(), list(journal.entries())


def test_entries_come_back_in_order(tmp_path: Path) -> None:
    """What was appended is read as it was, binary bodies included, and more can be appended behind it."""
    journal, snapshot, entries = _opened(tmp_path)
    assert (snapshot, entries) == (None, [])
    journal.append({"n": 1}, b"\x00\n")
    journal.close()
    journal, _, entries = _opened(tmp_path)
    assert entries == [({"n": 1}, b"\x00\n")]
    journal.append({"n": 2}, b"")
    journal.close()
    assert [header["n"] for header, _ in _opened(tmp_path)[2]] == [1, 2]


@pytest.mark.parametrize("cut", [1, 5, 11, 12, 13, 20])
def test_an_entry_cut_short_is_dropped_and_overwritten(tmp_path: Path, cut: int) -> None:
    """A crash in the middle of a write costs that entry, which nobody was told of, and none after it."""
    journal, _, _ = _opened(tmp_path)
    journal.append({"n": 1}, b"whole")
    whole = journal.size
    journal.append({"n": 2}, b"torn")
    journal.close()
    os.truncate(tmp_path / "journal-00000000", whole + cut)
    journal, _, entries = _opened(tmp_path)
    assert [header["n"] for header, _ in entries] == [1]
    journal.append({"n": 3}, b"")
    journal.close()
    assert [header["n"] for header, _ in _opened(tmp_path)[2]] == [1, 3]


def test_a_damaged_entry_ends_the_journal(tmp_path: Path) -> None:
    """Bytes that do not match their checksum are not taken for an entry."""
    journal, _, _ = _opened(tmp_path)
    journal.append({"n": 1}, b"good")
    whole = journal.size
    journal.append({"n": 2}, b"damaged")
    journal.close()
    path = tmp_path / "journal-00000000"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    journal, _, entries = _opened(tmp_path)
    assert [header["n"] for header, _ in entries] == [1]
    assert journal.size == whole


def test_a_snapshot_replaces_the_entries_before_it(tmp_path: Path) -> None:
    """After a rotation there is the state, and what was appended since."""
    journal, _, _ = _opened(tmp_path)
    journal.append({"n": 1}, b"")
    journal.rotate(b"state one")
    journal.append({"n": 2}, b"")
    journal.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal-00000001", "snapshot-00000001"]
    _, snapshot, entries = _opened(tmp_path)
    assert snapshot == b"state one"
    assert [header["n"] for header, _ in entries] == [2]


def test_a_crash_while_rotating_loses_nothing(tmp_path: Path) -> None:
    """A half-written snapshot does not count; a whole one counts even if the old files are still there."""
    journal, _, _ = _opened(tmp_path)
    journal.append({"n": 1}, b"")
    journal.close()
    (tmp_path / "snapshot-00000001.tmp").write_bytes(b"hal")
    journal, snapshot, entries = _opened(tmp_path)
    assert snapshot is None
    assert [header["n"] for header, _ in entries] == [1]
    journal.close()
    (tmp_path / "snapshot-00000001").write_bytes(b"state with 1")
    _, snapshot, entries = _opened(tmp_path)
    assert (snapshot, entries) == (b"state with 1", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal-00000001", "snapshot-00000001"]


def test_a_full_disk_leaves_no_half_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that could not be written whole is told and cut off again."""
    journal, _, _ = _opened(tmp_path)
    journal.append({"n": 1}, b"")
    write = os.write

    def half(fd: int, data: memoryview) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[: len(data) - 10])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space left"):
        journal.append({"n": 2}, b"x" * 100)
    monkeypatch.undo()
    journal.append({"n": 3}, b"")
    journal.close()
    assert [header["n"] for header, _ in _opened(tmp_path)[2]] == [1, 3]


def test_the_folder_is_private(tmp_path: Path) -> None:
    """Signed requests and stored data are nobody else's business."""
    Journal(tmp_path / "journal")
    assert (tmp_path / "journal").stat().st_mode & 0o077 == 0
