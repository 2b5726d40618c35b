"""Manifests of exports: signatures, files and chains that are right, and every way in which they are not."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from artcafe_agent.manifests import Checked, Manifest, NotGenuine, check_chain, check_file, read_manifest

KEY = Ed25519PrivateKey.generate()
KEYS = {"k1": base64.urlsafe_b64encode(KEY.public_key().public_bytes_raw()).decode().rstrip("=")}
FILE = b"date,messages\n2026-01-01,3\n2026-01-02,4\n"


def encoded(value: Any) -> str:
    """Return a value as a part of a signature."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def signed(key: Ed25519PrivateKey = KEY, header: dict[str, str] | None = None, **changes: Any) -> str:
    """Return a manifest of the file, with changes."""
    manifest = {
        "version": 1,
        "export_id": f"e{changes.get('number', 1)}",
        "tenant_id": "t1",
        "number": 1,
        "previous_sha256": None,
        "format": "csv",
        "rows": 2,
        "bytes": len(FILE),
        "totals": {"messages": 7},
        "sha256": hashlib.sha256(FILE).hexdigest(),
    }
    text = f"{encoded(header or {'alg': 'EdDSA', 'kid': 'k1'})}.{encoded(manifest | changes)}"
    return f"{text}.{encoded(key.sign(text.encode()))}"


def test_a_genuine_file_gives_its_totals(tmp_path: Path) -> None:
    """Signature, hash, rows and totals fit."""
    path = tmp_path / "usage.csv"
    path.write_bytes(FILE)
    assert check_file(path, read_manifest(signed(), KEYS)) == {"messages": 7}


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


def chain(*links: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Check manifests as one chain."""
    read: list[Manifest] = [read_manifest(link, KEYS) for link in links]
    return check_chain(Checked(f"f{manifest.number}", manifest, {}) for manifest in read)


def test_chains_are_followed_in_any_order() -> None:
    """Linked manifests are right; one that was replaced, doubled or left out is told."""
    first = signed()
    second = signed(number=2, previous_sha256=hashlib.sha256(first.encode()).hexdigest())
    third = signed(number=3, previous_sha256=hashlib.sha256(second.encode()).hexdigest())
    other = signed(number=2, previous_sha256="00")
    assert chain(third, first, second) == ([], [])
    assert chain(first, first) == ([], [])
    assert chain(first, third) == ([], ["manifests 2 to 2 of t1"])
    assert chain(second) == ([], ["manifests 1 to 1 of t1"])
    assert chain(first, other) == ([("f2", "manifest 2 does not follow 1")], [])
    assert chain(signed(previous_sha256="00"))[0] == [("f1", "the first manifest follows another one")]
    doubled = signed(number=2, export_id="x", previous_sha256=hashlib.sha256(first.encode()).hexdigest())
    assert chain(first, second, doubled)[0] == [("f2", "there are two manifests 2")]
