"""Sockets that listen: how they are bound, and how they stop."""

from __future__ import annotations

import asyncio
import socket


def listening_socket(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Bind a TCP socket; with `shared` several processes may listen on the port (SO_REUSEPORT)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound


async def take_in_no_more(descriptor: int) -> None:
    """Accept nothing more on a socket by which an asyncio server listens; to be done before that is closed.

    What asyncio has accepted becomes the server's in the loop's next round. Where the server is closed in
    between, asyncio loses it: the connection stays open, and is answered by nobody.
    """
    asyncio.get_running_loop().remove_reader(descriptor)
    await asyncio.sleep(0)
