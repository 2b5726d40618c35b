"""Check usage exports: the signature of a manifest, the file it is about, and the chain of manifests."""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from artcafe_agent.errors import ArtcafeError

_FIRST_FOLLOWS = "the first manifest follows another one"

CHUNK_BYTES = 1024 * 1024


class NotGenuine(ArtcafeError):
    """A file or its manifest is not what the platform has made."""


class ReaderMissing(ArtcafeError):
    """A file cannot be checked, since what reads its form is not installed."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a manifest says; `signed_sha256` is its own hash, by which the next one links it."""

    version: Literal[1]
    export_id: str
    tenant_id: str
    start_date: str
    end_date: str
    created_at: str
    number: int
    previous_sha256: str | None
    format: Literal["csv", "jsonl", "parquet"]
    rows: int
    bytes: int
    totals: dict[str, int]
    sha256: str
    signed_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A genuine manifest, and where it was found."""

    found_in: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Head:
    """The newest manifest of a chain, as the server names it; number 0 where there is none yet."""

    number: int
    sha256: str


def read_manifest(signed: str, keys: Mapping[str, str]) -> Manifest:
    """Return what a signed manifest says; ``keys`` are public keys (base64url) by their ids.

    Raises:
        NotGenuine: None of the keys has signed it.
    """
    parts = signed.split(".")
    try:
        header_text, payload_text, signature_text = parts
        header = json.loads(_decoded(header_text))
        # The header chooses among the keys that are trusted already, and nothing else.
        if header.get("alg") != "EdDSA":
            raise NotGenuine("the manifest is not signed with EdDSA")
        if header.get("kid") not in keys:
            raise NotGenuine("the manifest is signed with an unknown key")
        key = Ed25519PublicKey.from_public_bytes(_decoded(keys[header["kid"]]))
        key.verify(_decoded(signature_text), f"{header_text}.{payload_text}".encode())
        manifest = msgspec.json.decode(_decoded(payload_text), type=Manifest)
    except InvalidSignature:
        raise NotGenuine("the manifest's signature is wrong") from None
    except (ValueError, AttributeError, TypeError, binascii.Error, msgspec.MsgspecError):
        raise NotGenuine("the manifest is not one of an export") from None
    return msgspec.structs.replace(manifest, signed_sha256=hashlib.sha256(signed.encode()).hexdigest())


def check_file(path: Path, manifest: Manifest) -> dict[str, int]:
    """Return the totals of a file, recomputed from its rows.

    Raises:
        NotGenuine: It is not the file that the manifest is about.
        ReaderMissing: It is a Parquet file, and nothing is installed that reads these.
    """
    hashed, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            hashed.update(chunk)
            size += len(chunk)
    if hashed.hexdigest() != manifest.sha256 or size != manifest.bytes:
        raise NotGenuine("the file was changed: its hash is not the manifest's")
    totals, rows = dict.fromkeys(manifest.totals, 0), 0
    try:
        for row in _rows(path, manifest.format, list(totals)):
            rows += 1
            for name in totals:
                totals[name] += int(row[name])
    except (ValueError, KeyError, TypeError, msgspec.MsgspecError):
        raise NotGenuine("the file is not an export") from None
    if rows != manifest.rows or totals != manifest.totals:
        raise NotGenuine("the rows of the file do not add up to the manifest's totals")
    return totals


def check_chain(
    links: Iterable[Link], heads: Mapping[str, Head] | None = None
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return which manifests do not fit into their chain, with the reason, and which are missing.

    ``heads`` are the ends of chains by tenant, where they are known.
    """
    broken: list[tuple[str, str]] = []
    gaps: list[str] = []
    chains: dict[str, list[Link]] = {tenant_id: [] for tenant_id in heads or {}}
    for each in links:
        chains.setdefault(each.manifest.tenant_id, []).append(each)
    for tenant_id, chain in chains.items():
        head = (heads or {}).get(tenant_id)
        last: Manifest | None = None
        for link in sorted(chain, key=lambda each: each.manifest.number):
            mine, number = link.manifest, last.number if last else 0
            if last is not None and last.signed_sha256 == mine.signed_sha256:
                continue
            if mine.number == number:
                broken.append((link.found_in, f"there are two manifests {mine.number}"))
            elif head is not None and mine.number > head.number:
                broken.append((link.found_in, f"the chain ends with {head.number}, before this manifest"))
            elif mine.number > number + 1:
                gaps.append(_gap(number + 1, mine.number - 1, tenant_id))
            elif mine.previous_sha256 != (last.signed_sha256 if last else None):
                reason = f"manifest {mine.number} does not follow {number}" if last else _FIRST_FOLLOWS
                broken.append((link.found_in, reason))
            last = mine
        number = last.number if last else 0
        if head is not None and number < head.number:
            gaps.append(_gap(number + 1, head.number, tenant_id))
        elif head is not None and last and number == head.number and last.signed_sha256 != head.sha256:
            broken.append(
                (f"head of {tenant_id}", f"manifest {number} is not the one that the chain ends with")
            )
    return broken, gaps


def _gap(first: int, last: int, tenant_id: str) -> str:
    which = f"manifest {first}" if first == last else f"manifests {first} to {last}"
    return f"{which} of {tenant_id}"


def _rows(path: Path, form: str, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    if form == "parquet":
        yield from _parquet_rows(path, names)
        return
    with path.open(newline="", encoding="utf-8") as file:
        if form == "csv":
            yield from csv.DictReader(file)
        else:
            for line in file:
                yield msgspec.json.decode(line, type=dict[str, Any])


def _parquet_rows(path: Path, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    try:
        from arro3.io import read_parquet
    except ImportError:
        raise ReaderMissing(
            f"{path} is a Parquet file: pip install 'artcafe-agent[parquet]' to check these"
        ) from None
    try:
        for batch in read_parquet(path):
            columns = [batch.column(name).to_pylist() for name in names]
            for values in zip(*columns, strict=True):
                yield dict(zip(names, values, strict=True))
    except Exception as problem:
        # The library has no kind of its own for a file that is none.
        raise ValueError(str(problem)) from None


def _decoded(text: str) -> bytes:
    return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
