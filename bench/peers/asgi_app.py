"""What most Python teams would build: Starlette, one task per socket, Redis pub/sub between processes.

Served by `asgi_redis.py`; not a part of the platform.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect


class Rooms:
    """The local sockets of each channel, and the one subscription of this process to Redis."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._pubsub: PubSub = redis.pubsub()
        self._sockets: dict[str, set[WebSocket]] = {}

    async def join(self, channel: str, socket: WebSocket) -> None:
        """Add a socket to a channel."""
        sockets = self._sockets.setdefault(channel, set())
        if not sockets:
            await self._pubsub.subscribe(channel)
        sockets.add(socket)

    async def leave(self, channel: str, socket: WebSocket) -> None:
        """Remove a socket from a channel."""
        self._sockets[channel].discard(socket)

    async def run(self) -> None:
        """Pass on what Redis says, for ever."""
        await self._pubsub.subscribe("start")
        while True:
            message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=None)
            if message is None:
                continue
            text = message["data"].decode()
            for socket in tuple(self._sockets.get(message["channel"].decode(), ())):
                with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                    await socket.send_text(text)


async def _socket(websocket: WebSocket) -> None:
    rooms: Rooms = websocket.app.state.rooms
    channel = websocket.path_params["channel"]
    await websocket.accept()
    await rooms.join(channel, websocket)
    await websocket.send_text("ready")
    try:
        while True:
            await rooms.redis.publish(channel, await websocket.receive_text())
    except WebSocketDisconnect:
        await rooms.leave(channel, websocket)


async def _publisher(websocket: WebSocket) -> None:
    rooms: Rooms = websocket.app.state.rooms
    channel = websocket.path_params["channel"]
    await websocket.accept()
    await websocket.send_text("ready")
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await rooms.redis.publish(channel, await websocket.receive_text())


async def _health(request: Request) -> Response:
    return PlainTextResponse("ok")


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    async with Redis.from_url(os.environ["REDIS_URL"]) as redis:
        app.state.rooms = Rooms(redis)
        running = asyncio.create_task(app.state.rooms.run())
        yield
        running.cancel()


app = Starlette(
    routes=[
        WebSocketRoute("/receive/{channel}", _socket),
        WebSocketRoute("/publish/{channel}", _publisher),
        Route("/health", _health),
    ],
    lifespan=_lifespan,
)
