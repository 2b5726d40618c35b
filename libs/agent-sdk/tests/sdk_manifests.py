"""A file and manifests of it, signed by a key of the test's own."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

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
        "start_date": "2026-01-01",
        "end_date": "2026-01-31",
        "created_at": "2026-02-01T02:00:00.000Z",
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


def linked(length: int) -> list[str]:
    """Return a chain of so many manifests, oldest first."""
    chain: list[str] = []
    for number in range(1, length + 1):
        before = hashlib.sha256(chain[-1].encode()).hexdigest() if chain else None
        chain.append(signed(number=number, previous_sha256=before))
    return chain
