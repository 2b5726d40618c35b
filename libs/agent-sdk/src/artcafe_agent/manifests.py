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

CHUNK_BYTES = 1024 * 1024


class NotGenuine(ArtcafeError):
    """A file or its manifest is not what the platform has made."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a manifest says; `signed_sha256` is its own hash, by which the next one links it."""

    version: Literal[1]
    export_id: str
    tenant_id: str
    number: int
    previous_sha256: str | None
    format: Literal["csv", "jsonl"]
    rows: int
    bytes: int
    totals: dict[str, int]
    sha256: str
    signed_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """A file that is what its manifest says."""

    file: str
    manifest: Manifest
    totals: Mapping[str, int]


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
        for row in _rows(path, manifest.format):
            rows += 1
            for name in totals:
                totals[name] += int(row[name])
    except (ValueError, KeyError, TypeError, msgspec.MsgspecError):
        raise NotGenuine("the file is not an export") from None
    if rows != manifest.rows or totals != manifest.totals:
        raise NotGenuine("the rows of the file do not add up to the manifest's totals")
    return totals


def check_chain(checked: Iterable[Checked]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return which files are not linked to the one before, and which manifests were not given."""
    broken: list[tuple[str, str]] = []
    gaps: list[str] = []
    chains: dict[str, list[Checked]] = {}
    for each in checked:
        chains.setdefault(each.manifest.tenant_id, []).append(each)
    for tenant_id, links in chains.items():
        links.sort(key=lambda each: each.manifest.number)
        for before, link in _pairs(links):
            mine, last = link.manifest, before.manifest if before else None
            if last is not None and last.export_id == mine.export_id:
                continue
            if last is not None and mine.number == last.number + 1:
                if mine.previous_sha256 != last.signed_sha256:
                    broken.append((link.file, f"manifest {mine.number} does not follow {last.number}"))
            elif mine.number == 1:
                if mine.previous_sha256 is not None:
                    broken.append((link.file, "the first manifest follows another one"))
            elif last is not None and mine.number == last.number:
                broken.append((link.file, f"there are two manifests {mine.number}"))
            else:
                first = last.number + 1 if last else 1
                gaps.append(f"manifests {first} to {mine.number - 1} of {tenant_id}")
    return broken, gaps


def _pairs(links: Sequence[Checked]) -> Iterator[tuple[Checked | None, Checked]]:
    before: Checked | None = None
    for link in links:
        yield before, link
        before = link


def _rows(path: Path, form: str) -> Iterator[Mapping[str, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        if form == "csv":
            yield from csv.DictReader(file)
        else:
            for line in file:
                yield msgspec.json.decode(line, type=dict[str, Any])


def _decoded(text: str) -> bytes:
    return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
