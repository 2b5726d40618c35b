"""Readiness of each kind of server, asked in its own protocol with the standard library."""

import http.client
import socket
from collections.abc import Callable

_TIMEOUT_SECONDS = 1.0


def http_ready(port: int, path: str) -> Callable[[], bool]:
    """Return a probe which is true when GET answers 200."""
    return http_answers(port, path, 200)


def http_answers(port: int, path: str, status: int) -> Callable[[], bool]:
    """Return a probe which is true when GET answers with a certain status."""

    def probe() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == status
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return probe


def nats_ready(port: int) -> Callable[[], bool]:
    """Return a probe which is true when a NATS server greets; it answers before clients log in."""

    def probe() -> bool:
        return _first_bytes(port, b"").startswith(b"INFO ")

    return probe


def valkey_ready(port: int, password: str | None = None) -> Callable[[], bool]:
    """Return a probe which is true when Valkey has loaded its data and answers PING."""
    login = f"AUTH {password}\r\n".encode() if password else b""

    def probe() -> bool:
        answer = _first_bytes(port, login + b"PING\r\n")
        return answer.endswith(b"+PONG\r\n")

    return probe


def _first_bytes(port: int, request: bytes) -> bytes:
    """Send a request to a local port and return the beginning of the answer; nothing when there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS) as connection:
            connection.sendall(request)
            answer = connection.recv(4096)
            while answer and not answer.endswith(b"\r\n"):
                more = connection.recv(4096)
                if not more:
                    break
                answer += more
            if answer == b"+OK\r\n":
                answer += connection.recv(4096)
            return answer
    except OSError:
        return b""
