"""Requests that nobody sensible makes: each is refused or answered, and none is an error of the server."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import httpx

from artcafe_registry.app import operations
from artcafe_registry.services import Services

from .support import Stage

ROUNDS = 12
ALL = operations(object.__new__(Services))
ODD_TEXT = [
    "",
    " ",
    "\x00",
    "a\nb",
    "..",
    "*",
    ">",
    "a.b.c",
    "#platform",
    "@a#c",
    "T" * 300,
    "日本",
    "\u202e",
    "😀",
    "%00",
    "null",
    "' OR 1=1",
    "${x}",
    "SHA256:x/+",
]
NAMES = ["name", "agent_id", "channel_id", "tenant_id", "type", "capabilities", "metadata", "public_key"]
NAMES += [
    "access",
    "delivery",
    "retention",
    "role",
    "auto_subscribe",
    "plan",
    "limits",
    "status",
    "user_id",
    "x",
]


class Chance:
    """Odd values, the same ones each time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def text(self) -> str:
        """Return an odd string."""
        return self._random.choice(ODD_TEXT)

    def value(self, depth: int = 0) -> Any:
        """Return an odd JSON value."""
        kind = self._random.randrange(9 if depth < 3 else 7)
        if kind == 7:
            return [self.value(depth + 1) for _ in range(self._random.randrange(4))]
        if kind == 8:
            return {
                self._random.choice(NAMES): self.value(depth + 1) for _ in range(self._random.randrange(5))
            }
        return [None, True, -1, 10**30, 1.5e300, self.text(), self._random.choice(NAMES)][kind]

    def body(self) -> bytes:
        """Return an odd body: often an object of names that mean something."""
        if self._random.random() < 0.1:
            return self._random.choice([b"", b"{", b"\xff", b"[]", b'{"a":1e999}', b'{"name":"\\ud800"}'])
        made = {name: self.value() for name in self._random.sample(NAMES, self._random.randrange(len(NAMES)))}
        if self._random.random() < 0.7:
            made["name"] = "n"
        return json.dumps(made).encode()

    def path(self, template: str, tenant_id: str) -> str:
        """Return a path with odd ids in it, percent-encoded; the tenant is most often the caller's."""

        def fill(found: re.Match[str]) -> str:
            mine = found[1] == "tenant_id" and self._random.random() < 0.8
            known = "x" if self._random.random() < 0.4 else self.text()
            text = tenant_id if mine else known
            return "".join(f"%{byte:02X}" for byte in text.encode()) or "%20"

        return re.sub(r"{(\w+)(?::\w+)?}", fill, template)

    def query(self) -> dict[str, str]:
        """Return an odd query."""
        names = ["limit", "next_token", "status", "capability", "fingerprint", "since", "tenant_id"]
        return {name: self.text() for name in self._random.sample(names, self._random.randrange(3))}


async def test_odd_requests_are_no_errors_of_the_server(stage: Stage) -> None:
    """Whatever ids, bodies and queries a member sends to any route, no answer is a 5xx."""
    tenant_id, owner = await stage.owner()
    await owner.post("/agents", json={"name": "x", "agent_id": "x"})
    await owner.post("/channels", json={"name": "x", "channel_id": "x"})
    chance = Chance(11)
    codes: set[int] = set()
    for _ in range(ROUNDS):
        for operation in ALL:
            if operation.name == "delete_tenant":
                continue
            answer: httpx.Response = await owner.request(
                operation.method,
                chance.path(operation.path, tenant_id),
                content=chance.body() if operation.body is not None else b"",
                params=chance.query(),
            )
            assert answer.status_code < 500, (operation.name, answer.request.url, answer.request.content)
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json"
                assert set(answer.json()) >= {"type", "title", "status", "code", "detail", "instance"}
            codes.add(answer.status_code)
    # It does get somewhere.
    assert {200, 400, 404} <= codes


async def test_body_that_is_too_large_is_refused(stage: Stage) -> None:
    """More than a mebibyte is not read to its end."""
    _, owner = await stage.owner()
    refused = await owner.post("/agents", content=b'{"name":"' + b"x" * 2_000_000 + b'"}')
    assert refused.status_code == 400
    assert (await owner.get("/agents")).status_code == 200
