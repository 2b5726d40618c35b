"""Manifests of exports: signatures, files and chains that are right, and every way in which they are not."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
from arro3.core import Array, DataType, RecordBatch
from arro3.io import write_parquet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sdk_manifests import FILE, KEYS, signed

from artcafe_agent.manifests import (
    Head,
    Link,
    Manifest,
    NotGenuine,
    ReaderMissing,
    check_chain,
    check_file,
    read_manifest,
)


def test_a_genuine_file_gives_its_totals(tmp_path: Path) -> None:
    """Signature, hash, rows and totals fit."""
    path = tmp_path / "usage.csv"
    path.write_bytes(FILE)
    assert check_file(path, read_manifest(signed(), KEYS)) == {"messages": 7}


@pytest.fixture
def parquet(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Write the same rows as a Parquet file; give it, and what its manifest says otherwise."""
    days = Array(["2026-01-01", "2026-01-02"], DataType.utf8())
    batch = RecordBatch.from_pydict({"date": days, "messages": Array([3, 4], DataType.int64())})
    path = tmp_path / "usage.parquet"
    write_parquet(batch, path)
    data = path.read_bytes()
    return path, {"format": "parquet", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_a_parquet_file_is_added_up_as_well(parquet: tuple[Path, dict[str, Any]]) -> None:
    """Its rows are read, and have to add up to the manifest's totals."""
    path, about = parquet
    assert check_file(path, read_manifest(signed(**about), KEYS)) == {"messages": 7}
    for wrong in ({"totals": {"messages": 8}}, {"rows": 1}):
        with pytest.raises(NotGenuine, match="do not add up"):
            check_file(path, read_manifest(signed(**about, **wrong), KEYS))
    with pytest.raises(NotGenuine, match="not an export"):
        check_file(path, read_manifest(signed(**about, totals={"bytes_in": 0}), KEYS))


def test_without_a_reader_of_parquet_it_says_what_to_install(
    parquet: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader is an extra: who needs it is told its name, and no file is called wrong."""
    path, about = parquet
    monkeypatch.setitem(sys.modules, "arro3.io", None)
    with pytest.raises(ReaderMissing, match=r"pip install 'artcafe-agent\[parquet\]'"):
        check_file(path, read_manifest(signed(**about), KEYS))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (signed(Ed25519PrivateKey.generate()), "signature is wrong"),
        (signed(header={"alg": "none", "kid": "k1"}), "not signed with EdDSA"),
        (signed(header={"alg": "EdDSA", "kid": "k2"}), "unknown key"),
        (signed().replace(".", ".e30", 1), "is wrong"),
        ("nothing", "not one of an export"),
        ("a.b.c", "not one of an export"),
        (signed(version=2), "not one of an export"),
    ],
)
def test_a_manifest_that_is_not_genuine_is_refused(text: str, reason: str) -> None:
    """Whatever is wrong with it is told."""
    with pytest.raises(NotGenuine, match=reason):
        read_manifest(text, KEYS)


@pytest.mark.parametrize(
    ("data", "changes", "reason"),
    [
        (FILE.replace(b"3", b"5", 1), {}, "was changed"),
        (FILE[:-1], {}, "was changed"),
        (FILE, {"totals": {"messages": 8}}, "do not add up"),
        (FILE, {"rows": 3}, "do not add up"),
        (FILE, {"totals": {"bytes_in": 0}}, "not an export"),
    ],
)
def test_a_file_that_is_another_one_is_refused(
    tmp_path: Path, data: bytes, changes: dict[str, Any], reason: str
) -> None:
    """A changed file, and totals that its rows do not come to."""
    path = tmp_path / "usage.csv"
    path.write_bytes(data)
    with pytest.raises(NotGenuine, match=reason):
        check_file(path, read_manifest(signed(**changes), KEYS))


def chain(*links: str, head: tuple[int, str] | None = None) -> tuple[list[tuple[str, str]], list[str]]:
    """Check manifests as one chain, up to its head where that is given by its number and manifest."""
    read: list[Manifest] = [read_manifest(link, KEYS) for link in links]
    heads = {"t1": Head(head[0], hashlib.sha256(head[1].encode()).hexdigest())} if head else {}
    return check_chain([Link(f"f{manifest.number}", manifest) for manifest in read], heads)


def test_chains_are_followed_in_any_order() -> None:
    """Linked manifests are right; one that was replaced, doubled or left out is told."""
    first = signed()
    second = signed(number=2, previous_sha256=hashlib.sha256(first.encode()).hexdigest())
    third = signed(number=3, previous_sha256=hashlib.sha256(second.encode()).hexdigest())
    other = signed(number=2, previous_sha256="00")
    assert chain(third, first, second) == ([], [])
    assert chain(first, first) == ([], [])
    assert chain(first, third) == ([], ["manifest 2 of t1"])
    assert chain(second) == ([], ["manifest 1 of t1"])
    assert chain(first, other) == ([("f2", "manifest 2 does not follow 1")], [])
    assert chain(signed(previous_sha256="00"))[0] == [("f1", "the first manifest follows another one")]
    doubled = signed(number=2, export_id="x", previous_sha256=hashlib.sha256(first.encode()).hexdigest())
    assert chain(first, second, doubled)[0] == [("f2", "there are two manifests 2")]


def test_a_chain_ends_with_its_head() -> None:
    """What is missing at the end, what lies behind it, and another end than the one named, are told."""
    first = signed()
    second = signed(number=2, previous_sha256=hashlib.sha256(first.encode()).hexdigest())
    assert chain(first, second, head=(2, second)) == ([], [])
    assert chain(first, head=(4, second)) == ([], ["manifests 2 to 4 of t1"])
    assert chain(head=(1, first)) == ([], ["manifest 1 of t1"])
    assert chain(head=(0, "")) == ([], [])
    assert chain(first, second, head=(1, first)) == (
        [("f2", "the chain ends with 1, before this manifest")],
        [],
    )
    assert chain(first, second, head=(2, first)) == (
        [("head of t1", "manifest 2 is not the one that the chain ends with")],
        [],
    )


def test_two_manifests_of_one_export_are_told_apart() -> None:
    """A second one with the same id and number that says something else is not taken for the first."""
    assert chain(signed(), signed(rows=3))[0] == [("f1", "there are two manifests 1")]
