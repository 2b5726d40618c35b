"""Let nobody use the emulator who does not know its key.

It listens on an address of the machine, which every user of the machine reaches, and ministack takes any
credentials. So each access key id ends with a key that they do not know: ``rights.auth.KEY`` is
``rights.auth``, ``000000000000.KEY`` that account. What comes after this does not see the key, and what was
stored without one is found with it. Presigned addresses, which nothing of ours makes, are refused: ministack
checks their signature, and knows no such access key.
"""

import hmac
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from artcafe_devstack.emulator.refusing import refuse

Application = Callable[..., Awaitable[None]]

_CREDENTIAL = re.compile(rb"(?<=Credential=)[^,/\s]+(?=/)")


def with_key(app: Application, key: str, open_path: str) -> Application:
    """Put the key before the emulator's application; `open_path` is for everyone."""
    expected = key.encode()

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] == open_path):
            await app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        if not any(hmac.compare_digest(end, expected) for end in _ends(scope["headers"])):
            await refuse(
                send,
                json_form=any(name == b"x-amz-target" for name, _ in scope["headers"]),
                status=403,
                code="UnrecognizedClientException",
                text="this is not an access key of the emulator",
            )
            return
        await app({**scope, "headers": _without_key(scope["headers"], expected)}, receive, send)

    return wrapped


def _ends(headers: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Yield how each access key id ends that a request is signed for."""
    for name, value in headers:
        if name == b"authorization":
            for access_key_id in _CREDENTIAL.findall(value):
                yield access_key_id.rpartition(b".")[2]


def _without_key(headers: Sequence[tuple[bytes, bytes]], key: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers as one would send them without a key."""

    def plain(found: re.Match[bytes]) -> bytes:
        return found[0].removesuffix(b"." + key)

    return [(n, _CREDENTIAL.sub(plain, v) if n == b"authorization" else v) for n, v in headers]
