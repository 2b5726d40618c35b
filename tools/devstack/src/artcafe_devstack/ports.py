"""Free TCP ports on 127.0.0.1."""

import os
import random
import socket
import sys
from collections import deque

# Below the range from which systems take the ports of outgoing connections: a port that was free a moment
# ago is not taken by a client of somebody else meanwhile, and a server that is restarted finds its port
# again.
_FIRST, _LAST = 18_000, 32_000
# More than two stacks take.
_CLAIMS_MAX = 64
_claims: deque[int] = deque()


def free_port() -> int:
    """Return a port on which nothing listens, and which no other process is given meanwhile."""
    for _ in range(200):
        port = random.randint(_FIRST, _LAST)
        if is_free(port) and claim(port):
            return port
    raise OSError(f"no free port found between {_FIRST} and {_LAST}")


def claim(port: int) -> bool:
    """Keep a port from being given to others until its server listens; tell whether nobody had claimed it.

    A server takes seconds to start on a busy machine, and its port looks free until then. A claim is a name
    among the sockets of the system, which one process has at a time and which ends with it.
    """
    if sys.platform != "linux":  # where there are no names without files
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as name:
        try:
            name.bind(f"\0artcafe-port-{port}")
        except OSError:
            return False
        if len(_claims) == _CLAIMS_MAX:
            os.close(_claims.popleft())
        _claims.append(name.detach())
    return True


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether a server could listen on a port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True
