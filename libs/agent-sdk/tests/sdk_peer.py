"""The other side of the agent socket, small enough to fail in every way a test asks for.

One port answers the challenge over HTTP and speaks WebSocket, as the edge does: a front reads the request
line and hands sockets through to `websockets.serve`. Signatures are really verified, and a challenge works
once.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from artcafe_agent import AgentKey, Client

TENANT = "acme"
AGENT = "agent-1"
# Whatever is to take a moment in the socket tests, or to come too late, is a multiple of this.
UNIT = 0.05
# For what must come: it says how long a busy machine may take, and nothing of the SDK.
PATIENCE = 20.0

Command = dict[str, Any]
Hook = Callable[["PeerSocket", Command], Awaitable[bool]]


async def until(is_so: Callable[[], bool], deadline: float = PATIENCE) -> None:
    """Wait for something that another task brings about."""
    async with asyncio.timeout(deadline):
        while not is_so():
            await asyncio.sleep(UNIT / 10)


async def online_again(client: Client, reconnects: int = 1) -> None:
    """Wait until the client has come back."""
    await until(lambda: client.is_online and client.reconnects >= reconnects)


class PeerSocket:
    """One accepted socket."""

    def __init__(self, peer: Peer, socket: ServerConnection) -> None:
        self.peer = peer
        self.socket = socket
        self.connection_id = f"c{len(peer.sockets) + 1}"
        self.commands: list[Command] = []
        self.channels: list[str] = []
        self.ended = asyncio.Event()
        self.close_code: int | None = None

    def of_type(self, kind: str) -> list[Command]:
        """Return the commands of one type that came so far."""
        return [command for command in self.commands if command["type"] == kind]

    async def wait_for(self, kind: str, count: int = 1) -> Command:
        """Return the ``count``-th command of a type, once it is there."""
        await until(lambda: len(self.of_type(kind)) >= count)
        return self.of_type(kind)[count - 1]

    async def send(self, **event: Any) -> None:
        """Send an event."""
        await self.socket.send(json.dumps(event))

    async def deliver(self, channel: str, data: Any, **fields: Any) -> None:
        """Send a message of a channel."""
        await self.send(
            type="message",
            message_id=uuid.uuid4().hex,
            timestamp="2026-01-01T00:00:00.000Z",
            channel=channel,
            subject=channel,
            data=data,
            **{"from": "agent-2", **fields},
        )

    def drop(self) -> None:
        """Break the connection without a word."""
        self.socket.transport.abort()

    async def close(self, code: int, reason: str = "") -> None:
        """Close with a code."""
        await self.socket.close(code, reason)


class Peer:
    """A server for one agent. Attributes change its behaviour from the next connection or command on."""

    def __init__(self, key: AgentKey) -> None:
        self.key = key
        self.sockets: list[PeerSocket] = []
        self.challenges: list[str] = []
        self.unused: set[str] = set()
        self.heartbeat_interval = 1000.0
        self.acknowledges_heartbeats = True
        self.challenge_answer: tuple[int, dict[str, str], bytes] | None = None
        self.welcome: bytes | None = b""  # empty: a real one; None: none
        self.hook: Hook | None = None
        self.url = ""
        self.bugs: list[Exception] = []
        self._opened = asyncio.Event()

    async def socket(self, number: int = 1) -> PeerSocket:
        """Return the ``number``-th accepted socket, once it is there."""
        async with asyncio.timeout(PATIENCE):
            while len(self.sockets) < number:
                self._opened.clear()
                await self._opened.wait()
        return self.sockets[number - 1]

    async def serve_socket(self, socket: ServerConnection) -> None:
        """Speak with one agent."""
        assert socket.request is not None
        if not self._is_proven(socket.request.path):
            await socket.send('{"type":"error","code":"unauthenticated","message":"no","error":"no"}')
            await socket.close(4500, "bad credentials")
            return
        mine = PeerSocket(self, socket)
        self.sockets.append(mine)
        self._opened.set()
        try:
            if self.welcome is not None:
                await socket.send(
                    self.welcome.decode(errors="replace") if self.welcome else self._welcome(mine)
                )
            async for frame in socket:
                command = json.loads(frame)
                mine.commands.append(command)
                if self.hook is None or not await self.hook(mine, command):
                    await self._answer(mine, command)
        except ConnectionClosed:
            pass
        except Exception as bug:
            self.bugs.append(bug)
            raise
        finally:
            mine.close_code = socket.close_code
            mine.ended.set()

    async def answer_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one POST for a challenge."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        )
        asked = json.loads(await reader.readexactly(length))
        assert asked == {"tenant_id": TENANT, "agent_id": AGENT}
        if self.challenge_answer is not None:
            status, headers, body = self.challenge_answer
        else:
            challenge = uuid.uuid4().hex
            self.challenges.append(challenge)
            self.unused.add(challenge)
            status, headers = 200, {"Content-Type": "application/json"}
            body = json.dumps({"challenge": challenge, "expires_at": "x", **asked}).encode()
        lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    def _is_proven(self, path: str) -> bool:
        parts = urlsplit(path)
        query = parse_qs(parts.query)
        challenge, signature = query["challenge"][0], query["signature"][0]
        public = load_ssh_public_key(self.key.public_key.encode())
        assert isinstance(public, Ed25519PublicKey)
        if parts.path != f"/ws/agent/{AGENT}" or challenge not in self.unused:
            return False
        self.unused.remove(challenge)
        try:
            public.verify(base64.b64decode(signature), challenge.encode())
        except InvalidSignature:
            return False
        return True

    def _welcome(self, socket: PeerSocket) -> str:
        return json.dumps(
            {
                "type": "welcome",
                "agent_id": AGENT,
                "tenant_id": TENANT,
                "connection_id": socket.connection_id,
                "server_id": "peer",
                "heartbeat_interval": self.heartbeat_interval,
                "limits": {"bytes_per_message": 65536},
                "timestamp": "2026-01-01T00:00:00Z",
                "a_field_of_tomorrow": 1,
            }
        )

    async def _answer(self, socket: PeerSocket, command: Command) -> None:
        identifier = {"id": command["id"]} if "id" in command else {}
        channel = command.get("channel")
        match command["type"]:
            case "heartbeat":
                if self.acknowledges_heartbeats:
                    await socket.send(type="heartbeat_ack", timestamp="x")
            case "presence":
                await socket.send(type="presence_ack", **identifier)
            case "subscribe":
                socket.channels.append(command["channel"])
                await socket.send(type="subscribed", channel=channel, subject=channel, **identifier)
            case "unsubscribe":
                # What was never granted may be taken back too.
                socket.channels = [each for each in socket.channels if each != channel]
                await socket.send(type="unsubscribed", channel=channel, **identifier)
            case "publish":
                if command["channel"] in socket.channels:
                    await socket.deliver(command["channel"], command["data"], **{"from": AGENT})
                if identifier:
                    await socket.send(
                        type="published", channel=channel, message_id=uuid.uuid4().hex, **identifier
                    )


@contextlib.asynccontextmanager
async def running_peer(key: AgentKey) -> AsyncIterator[Peer]:
    """Run a peer on a free port of this machine."""
    peer = Peer(key)
    async with serve(peer.serve_socket, "127.0.0.1", 0, compression=None, ping_interval=None) as sockets:
        front = await asyncio.start_server(_front(peer, _port(sockets)), "127.0.0.1", 0)
        peer.url = f"http://127.0.0.1:{_port(front)}"
        async with front:
            yield peer
            front.close()
            for socket in peer.sockets:
                socket.drop()
        assert peer.bugs == []


def _port(server: Server | asyncio.Server) -> int:
    return int(next(iter(server.sockets)).getsockname()[1])


def _front(
    peer: Peer, websocket_port: int
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            method = await reader.readexactly(4)
            if method == b"POST":
                await peer.answer_http(reader, writer)
                return
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", websocket_port)
            inner_writer.write(method)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pipe(reader, inner_writer))
                tasks.create_task(_pipe(inner_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    return accept


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
