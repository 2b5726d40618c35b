"""A REST server whose answers a test writes down, and a dashboard socket that a test scripts."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from websockets.asyncio.server import ServerConnection, serve


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class RestPeer:
    """Answers by method and path, query included; a list of answers is given one by one."""

    url: str = ""
    answers: dict[str, Any] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)

    def on(self, request: str, body: Any = None, status: int = 200, **headers: str) -> None:
        """Answer a request such as ``GET /agents`` (below ``/api/v1``); more than once: in turn."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.answers.setdefault(request, []).append((status, headers, data))

    def find(self, request: str) -> tuple[int, dict[str, str], bytes]:
        """Return the answer to a request."""
        waiting = self.answers.get(request, [])
        if not waiting:
            problem = {
                "status": 404,
                "code": "not_found",
                "detail": f"no answer for {request}",
                "instance": "r1",
            }
            return 404, {}, json.dumps(problem).encode()
        answer: tuple[int, dict[str, str], bytes] = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return answer


@contextlib.contextmanager
def running_rest() -> Iterator[RestPeer]:
    """Run a REST peer on a free port of this machine."""
    peer = RestPeer()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            """Answer any request."""
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            headers = {name.lower(): value for name, value in self.headers.items()}
            peer.seen.append(Seen(self.command, self.path, headers, json.loads(raw) if raw else None))
            status, extra, body = peer.find(f"{self.command} {self.path.removeprefix('/api/v1')}")
            self.send_response(status)
            for name, value in extra.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    peer.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield peer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Dashboard:
    """One dashboard's connection, for a script."""

    def __init__(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.socket = socket
        self.path = socket.request.path
        self.headers = socket.request.headers

    async def send(self, **event: Any) -> None:
        """Send an event."""
        await self.socket.send(json.dumps(event))

    async def receive(self) -> dict[str, Any]:
        """Return the next command."""
        command: dict[str, Any] = json.loads(await self.socket.recv())
        return command


Script = Callable[[Dashboard], Awaitable[None]]


@contextlib.asynccontextmanager
async def running_dashboard(*scripts: Script) -> AsyncIterator[str]:
    """Run a dashboard socket; the scripts are for its connections, one after the other."""
    waiting = list(scripts)

    async def accept(socket: ServerConnection) -> None:
        await waiting.pop(0)(Dashboard(socket))

    async with serve(accept, "127.0.0.1", 0, compression=None) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
