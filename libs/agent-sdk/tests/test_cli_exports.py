"""`artcafe usage verify` and `exports`: files, manifests alone, chains, and keys of former times."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sdk_manifests import FILE, KEYS, linked, signed
from sdk_rest import RestPeer

from artcafe_agent.cli import main
from artcafe_agent.cli.exits import Exit

Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("own_settings")


def key_set(**keys: str) -> dict[str, Any]:
    """Return public keys as the platform tells them."""
    return {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid} for kid, x in keys.items()]}


def listed(chain: list[str], head: str, token: str | None = None) -> dict[str, Any]:
    """Return a page of the platform's list, of manifests that are given by number, newest first."""
    numbered = [{"number": number, "manifest": text} for number, text in enumerate(chain, 1) if text]
    digest = hashlib.sha256(head.encode()).hexdigest()
    return {
        "tenant_id": "t1",
        "head": {"number": len(chain), "sha256": digest},
        "exports": numbered[::-1],
        "next_token": token,
    }


@pytest.fixture
def keys(rest: RestPeer) -> None:
    """Let the server tell its keys."""
    rest.on("GET /usage/export/keys.json", key_set(**KEYS))


def kept(folder: Path, name: str, manifest: str) -> str:
    """Write a file and its manifest; return the file's path."""
    path = folder / name
    path.write_bytes(FILE)
    path.with_name(f"{name}.jws").write_text(manifest + "\n")
    return str(path)


def test_exports_are_listed(rest: RestPeer, capsys: Capture) -> None:
    """A line for each, with what it is of."""
    row = {"number": 2, "start_date": "2026-01-01", "end_date": "2026-01-31"}
    row |= {"created_at": "T", "format": "csv", "group_by": None, "rows": 31, "export_id": "e2"}
    rest.on("GET /usage/exports?limit=100", {"exports": [row], "next_token": None})
    assert main(["usage", "exports"]) == Exit.OK
    assert capsys.readouterr().out.splitlines()[1].split() == [
        *("2", "2026-01-01", "2026-01-31", "T", "csv", "-", "31", "e2")
    ]


@pytest.mark.usefixtures("keys")
def test_verify_shows_what_a_file_is_of(tmp_path: Path, capsys: Capture) -> None:
    """Whatever its name says: organisation, days and time come from the manifest."""
    file = kept(tmp_path, "march.csv", signed())
    assert main(["usage", "verify", file, f"{file}.jws"]) == Exit.OK
    head, first, alone = capsys.readouterr().out.splitlines()
    assert head.startswith("FILE ")
    assert first.split() == [
        *(file, "genuine", "1", "t1", "2026-01-01", "2026-01-31", "2026-02-01T02:00:00.000Z", "2", "7")
    ]
    assert "genuine (manifest alone)" in alone
    Path(file).unlink()
    assert main(["usage", "verify", f"{file}.jws"]) == Exit.OK
    assert main(["usage", "verify", file]) == Exit.FAILED


@pytest.mark.usefixtures("keys")
def test_verify_says_of_each_file_what_is_wrong(tmp_path: Path, capsys: Capture) -> None:
    """A manifest that is no text, or not there, is one file's failure, and says which; others are checked."""
    files = [kept(tmp_path, name, signed()) for name in ("a.csv", "b.csv", "c.csv", "d.csv")]
    Path(f"{files[0]}.jws").write_bytes(b"\xff\xfe\x00")
    Path(f"{files[1]}.jws").unlink()
    Path(files[2]).unlink()
    assert main(["usage", "verify", "--json", *files]) == Exit.FAILED
    assert {row["file"]: row["result"] for row in json.loads(capsys.readouterr().out)["files"]} == {
        files[0]: "the manifest is not one of an export",
        files[1]: f"{files[1]}.jws cannot be read: No such file or directory",
        files[2]: f"{files[2]} cannot be read: No such file or directory",
        files[3]: "genuine",
    }


@pytest.mark.usefixtures("keys")
def test_a_gap_is_told_and_is_a_failure_where_that_is_asked(tmp_path: Path, capsys: Capture) -> None:
    """A manifest that was not given is a warning; with --strict it is status 1."""
    chain = linked(4)
    files = [kept(tmp_path, f"{number}.csv", chain[number - 1]) for number in (1, 4)]
    assert main(["usage", "verify", *files]) == Exit.OK
    assert "WARNING: manifests 2 to 3 of t1: not given" in capsys.readouterr().err
    assert main(["usage", "verify", "--strict", "--json", *files]) == Exit.FAILED
    told = json.loads(capsys.readouterr().out)
    assert (told["genuine"], told["complete"], told["gaps"]) == (True, False, ["manifests 2 to 3 of t1"])
    between = [kept(tmp_path, f"{number}.csv", chain[number - 1]) for number in (2, 3)]
    assert main(["usage", "verify", "--strict", *files, *between]) == Exit.OK


@pytest.mark.usefixtures("keys")
def test_the_chain_is_fetched_page_by_page_and_checked_to_its_head(
    rest: RestPeer, tmp_path: Path, capsys: Capture
) -> None:
    """With --chain nothing has to be held but the file that one wants to know about."""
    chain = linked(3)
    whole = listed(chain, chain[-1])
    rest.on("GET /usage/exports?limit=100", whole | {"exports": whole["exports"][:2], "next_token": "n"})
    rest.on("GET /usage/exports?limit=100&next_token=n", whole | {"exports": whole["exports"][2:]})
    assert main(["usage", "verify", "--chain"]) == Exit.OK
    digest = hashlib.sha256(chain[-1].encode()).hexdigest()
    line = f"chain of t1: whole, from manifest 1 to its head 3, sha256 {digest}\n"
    assert capsys.readouterr().out == line
    assert main(["usage", "verify", "--chain", kept(tmp_path, "f.csv", chain[1])]) == Exit.OK
    assert rest.seen[-1].headers["x-tenant-id"] == "t1"
    other = kept(tmp_path, "other.csv", signed(number=2, previous_sha256="00"))
    assert main(["usage", "verify", "--chain", other]) == Exit.FAILED
    assert "there are two manifests 2" in capsys.readouterr().out
    assert main(["usage", "verify", "--chain", "--keys", str(tmp_path / "none")]) == Exit.USAGE
    assert main(["usage", "verify"]) == Exit.USAGE


CHAIN = linked(3)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("page", "problem"),
    [
        (listed([CHAIN[0], "", CHAIN[2]], CHAIN[2]), "WARNING: manifest 2 of t1: the platform has taken out"),
        (listed(["", *CHAIN[1:]], CHAIN[2]), "WARNING: manifest 1 of t1"),
        (listed([*CHAIN[:2], ""], CHAIN[2]), "WARNING: manifest 3 of t1"),
        (listed(CHAIN[:2], CHAIN[1]), "the chain ends with 2, before this manifest"),
        (listed(CHAIN, CHAIN[1]), "manifest 3 is not the one that the chain ends with"),
        (listed([CHAIN[0], signed(number=2), CHAIN[2]], CHAIN[2]), "manifest 2 does not follow 1"),
        (listed([CHAIN[1], CHAIN[0], CHAIN[2]], CHAIN[2]), "the manifest is another one"),
        (
            listed([CHAIN[0], signed(Ed25519PrivateKey.generate(), number=2), CHAIN[2]], CHAIN[2]),
            "signature is wrong",
        ),
        ({"tenant_id": "t1", "head": None, "exports": [], "next_token": None}, "the chain ends with 0"),
    ],
)
def test_whatever_was_done_to_the_chain_is_a_failure(
    rest: RestPeer, tmp_path: Path, capsys: Capture, page: dict[str, Any], problem: str
) -> None:
    """Links taken out at any place, exchanged, or cut off behind a file that somebody holds."""
    rest.on("GET /usage/exports?limit=100", page)
    assert main(["usage", "verify", "--chain", kept(tmp_path, "f.csv", CHAIN[2])]) == Exit.FAILED
    told = capsys.readouterr()
    assert problem in told.out + told.err
    assert "chain of t1: NOT whole" in told.out


@pytest.mark.parametrize("answer", [{}, {"tenant_id": "t1", "head": 3}, {"exports": [], "next_token": "n"}])
@pytest.mark.usefixtures("keys")
def test_an_answer_that_is_no_list_is_told(rest: RestPeer, answer: dict[str, Any]) -> None:
    """Another server, or a list that never ends, is not taken for a chain."""
    rest.on("GET /usage/exports?limit=100", answer)
    assert main(["usage", "verify", "--chain"]) == Exit.UNAVAILABLE


def test_keys_of_several_files_are_trusted(tmp_path: Path, capsys: Capture) -> None:
    """What was signed before the key was rotated is checked with the file of then."""
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    another = {"k2": KEYS["k1"][::-1]}
    old.write_text(json.dumps(key_set(**KEYS)))
    new.write_text(json.dumps(key_set(**another)))
    file = kept(tmp_path, "f.csv", signed())
    assert main(["usage", "verify", file, "--keys", str(new)]) == Exit.FAILED
    assert "unknown key" in capsys.readouterr().out
    assert main(["usage", "verify", file, "--keys", str(new), "--keys", str(old)]) == Exit.OK
    new.write_text(json.dumps(key_set(k1=another["k2"])))
    assert main(["usage", "verify", file, "--keys", str(old), "--keys", str(new)]) == Exit.USAGE
