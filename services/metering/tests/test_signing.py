"""Keys of exports: the one that signs, and the public halves of those that have signed before."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from artcafe_metering import signing
from artcafe_metering.signing import Signer, retired_keys


def signer(folder: Path, name: str) -> Signer:
    """Return a signer with a key of its own."""
    return Signer.from_file(folder / f"{name}.pem")


def test_retired_keys_are_those_of_all_files_each_once(tmp_path: Path) -> None:
    """Files are as the service has told them: the later ones have the earlier ones' keys again."""
    first, second = signer(tmp_path, "first").jwk, signer(tmp_path, "second").jwk
    folder = tmp_path / "keys"
    folder.mkdir()
    assert retired_keys(folder) == []
    (folder / "1.json").write_text(json.dumps({"keys": [first]}))
    (folder / "2.json").write_text(json.dumps({"keys": [second, first | {"d": "private", "use": "any"}]}))
    (folder / ".draft").write_text("{")
    assert retired_keys(folder) == [first, second]


@pytest.mark.parametrize(
    "change",
    [
        {"kid": "another"},
        {"x": "AAAA"},
        {"kty": "RSA"},
    ],
)
def test_a_file_that_holds_no_keys_of_exports_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    """A key whose id is not its own, or of another kind, is a file of no use."""
    keys = [signer(tmp_path, "first").jwk | change]
    folder = tmp_path / "keys"
    folder.mkdir()
    for text in (json.dumps({"keys": keys}), "{", "[]"):
        (folder / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=r"^bad\.json$"):
            retired_keys(folder)


def test_derived_keys_are_the_same_for_a_key_and_a_purpose_only(tmp_path: Path) -> None:
    """Replicas with one key derive the same; another purpose or key derives something else."""
    first = signer(tmp_path, "first")
    derived = first.derive("a")
    assert len(derived) == 32
    assert signer(tmp_path, "first").derive("a") == derived
    assert len({derived, first.derive("b"), signer(tmp_path, "second").derive("a")}) == 3


def test_a_replica_that_was_killed_over_the_key_stops_no_other(tmp_path: Path) -> None:
    """In containers all have the same number of a process; the first key that is made holds for all."""
    path = tmp_path / "shared.pem"
    path.with_name(f"{path.name}.{os.getpid()}").touch()
    first = signer(tmp_path, "shared").jwk
    # As one does that has found no key, either, a moment before.
    signing._make(path)
    assert signer(tmp_path, "shared").jwk == first
    assert path.stat().st_mode & 0o077 == 0
