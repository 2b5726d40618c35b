"""Free TCP ports on 127.0.0.1."""

import random
import socket

# Below the range from which systems take the ports of outgoing connections: a port that was free a moment
# ago is not taken by a client of somebody else meanwhile, and a server that is restarted finds its port
# again.
_FIRST, _LAST = 18_000, 32_000


def free_port() -> int:
    """Return a port on which nothing listens."""
    for _ in range(200):
        port = random.randint(_FIRST, _LAST)
        if is_free(port):
            return port
    raise OSError(f"no free port found between {_FIRST} and {_LAST}")


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
