"""nginx with the rendered templates, in front of upstreams that tell what they were asked."""

import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from artcafe_devstack import binaries
from artcafe_devstack.edge import Upstreams, edge_spec, render
from artcafe_devstack.ports import free_port, is_free
from artcafe_devstack.process import ManagedProcess, StackError
from artcafe_devstack.repository import repository_root

_PATIENCE_SECONDS = 30


class _Upstream(BaseHTTPRequestHandler):
    """Answers with its name and what it was asked; upgrades and echoes on request."""

    protocol_version = "HTTP/1.1"
    name = ""
    status = 200

    def handle_any(self) -> None:
        if self.headers.get("X-Hang-Up"):
            self.close_connection = True
            return
        if self.headers.get("Upgrade") == "websocket":
            self._echo()
            return
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        seen = {
            "name": self.name,
            "path": self.path,
            "headers": {k.lower(): v for k, v in self.headers.items()},
        }
        body = json.dumps(seen).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = handle_any

    def _echo(self) -> None:
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.end_headers()
        self.wfile.write(self.name.encode() + b":" + self.rfile.readline())
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@contextmanager
def _upstream(name: str, status: int = 200) -> Iterator[int]:
    handler = type(name, (_Upstream,), {"name": name, "status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@dataclass
class _Edge:
    port: int
    access_log: Path
    error_log: Path
    process: ManagedProcess

    def ask(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE_SECONDS)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def logged(self, request_id: str) -> str:
        """Return the access log once it has a request in it; a line is written after the answer was sent."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while request_id not in (text := self.access_log.read_text()):
            assert time.monotonic() < deadline, f"{request_id} is not in the access log"
            time.sleep(0.01)
        return text


@contextmanager
def _edge(folder: Path, upstreams: Upstreams) -> Iterator[_Edge]:
    port = free_port()
    access_log, error_log = folder / "access.log", folder / "error.log"
    process = ManagedProcess(
        edge_spec(folder / "edge", port, upstreams, log=error_log, access_log=access_log)
    )
    process.start()
    try:
        process.wait_ready()
        yield _Edge(port, access_log, error_log, process)
    finally:
        assert process.stop(), "nginx had to be ended by force"


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Edge]:
    """Run nginx before one upstream of each kind."""
    with ExitStack() as stack:
        names = ("auth", "registry", "metering", "gateway-1", "sockets-1")
        ports = {name: stack.enter_context(_upstream(name)) for name in names}
        upstreams = Upstreams(
            auth=ports["auth"],
            registry=ports["registry"],
            metering=ports["metering"],
            gateways_http=[ports["gateway-1"]],
            gateways_ws=[ports["sockets-1"]],
        )
        yield stack.enter_context(_edge(tmp_path_factory.mktemp("edge"), upstreams))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/", "gateway-1"),
        ("/assets/app.js", "gateway-1"),
        ("/api/v1/gateway/openapi.json", "gateway-1"),
        ("/api/v1/auth/login", "auth"),
        ("/api/v1/auth/agent/challenge", "auth"),
        ("/api/v1/agents/a-1/challenge", "auth"),
        ("/api/v1/agents", "registry"),
        ("/api/v1/agents?limit=5", "registry"),
        ("/api/v1/agents/a-1", "registry"),
        ("/api/v1/agents/a-1/keys", "registry"),
        ("/api/v1/channels/team.updates/messages", "registry"),
        ("/api/v1/tenants", "registry"),
        ("/api/v1/registry/openapi.json", "registry"),
        ("/api/v1/usage/current", "metering"),
        ("/api/v1/metering/openapi.json", "metering"),
        ("/ws/agent/a-1?ticket=t", "sockets-1"),
        ("/api/v1/ws/dashboard", "sockets-1"),
    ],
)
def test_each_route_reaches_its_service(edge: _Edge, path: str, name: str) -> None:
    """A path arrives, query included, at the service that owns it."""
    status, _, body = edge.ask(path)
    assert status == 200
    seen = json.loads(body)
    assert (seen["name"], seen["path"]) == (name, path)


@pytest.mark.parametrize("path", ["/health", "/api/v1/health"])
def test_health_is_that_of_the_whole_suite(edge: _Edge, path: str) -> None:
    """Both names lead to the gateway's report on everything, not to its word about itself."""
    seen = json.loads(edge.ask(path)[2])
    assert (seen["name"], seen["path"]) == ("gateway-1", "/api/v1/health")


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/ready",
        "/metrics/",
        "//metrics",
        "/%6detrics",
        "/x/../metrics",
        "/ready?x",
        "/api/v1/agentsx",
    ],
)
def test_internal_and_unknown_routes_are_not_found(edge: _Edge, path: str) -> None:
    """Nothing of the operators' pages is reached, by whatever spelling; the refusal is a problem."""
    status, headers, body = edge.ask(path)
    assert status == 404
    assert headers["content-type"] == "application/problem+json"
    problem = json.loads(body)
    assert problem["code"] == "not_found"
    assert problem["instance"]


def test_a_socket_is_upgraded_and_carries_bytes_both_ways(edge: _Edge) -> None:
    """The upgrade reaches the gateway and what follows is passed on untouched."""
    request = b"GET /ws/agent/a-1?ticket=secret HTTP/1.1\r\nHost: x\r\n"
    request += b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    with socket.create_connection(("127.0.0.1", edge.port), timeout=_PATIENCE_SECONDS) as client:
        client.sendall(request)
        answer = client.makefile("rb")
        assert answer.readline().startswith(b"HTTP/1.1 101")
        while answer.readline() != b"\r\n":
            continue
        client.sendall(b"hello\n")
        assert answer.readline() == b"sockets-1:hello\n"


@contextmanager
def _holder() -> Iterator[int]:
    """A gateway that takes every socket and is silent on all of them."""
    with ExitStack() as held, socket.create_server(("127.0.0.1", 0), backlog=64) as server:

        def take() -> None:
            with suppress(OSError):
                while True:
                    taken = held.enter_context(server.accept()[0])
                    while not taken.recv(4096).endswith(b"\r\n\r\n"):
                        continue
                    taken.sendall(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def _kib_of_children(pid: int | None) -> int:
    listed = subprocess.run(["ps", "-A", "-o", "ppid=,rss="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return sum(int(resident) for parent, resident in rows if parent == str(pid))


def test_a_socket_takes_no_more_memory_than_room_is_made_for(tmp_path: Path) -> None:
    """Containers and autoscalers of the edge are as large as its sockets, at 26 KiB for each."""
    request = b"GET /ws/agent/a-1?ticket=" + b"t" * 300 + b" HTTP/1.1\r\nHost: x\r\n"
    request += b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    with ExitStack() as stack:
        other, holder = stack.enter_context(_upstream("other")), stack.enter_context(_holder())
        upstreams = Upstreams(
            auth=other, registry=other, metering=other, gateways_http=[other], gateways_ws=[holder]
        )
        edge = stack.enter_context(_edge(tmp_path, upstreams))
        clients = stack.enter_context(ExitStack())

        def open_sockets(number: int) -> None:
            for _ in range(number):
                client = clients.enter_context(
                    socket.create_connection(("127.0.0.1", edge.port), timeout=_PATIENCE_SECONDS)
                )
                client.sendall(request)
                assert client.recv(4096).startswith(b"HTTP/1.1 101")

        # The first ones take what is taken once.
        open_sockets(50)
        before = _kib_of_children(edge.process.pid)
        open_sockets(200)
        assert 10 < (_kib_of_children(edge.process.pid) - before) / 200 < 1.2 * 26


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_nothing_but_a_socket_is_upgraded(edge: _Edge, protocol: str) -> None:
    """Neither a page, nor a route, nor the address of a socket becomes a tunnel."""
    asked = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol, "HTTP2-Settings": "AAMAAABk"}
    for path in (
        "/",
        "/api/v1/agents",
        "/api/v1/auth/config",
        *(["/ws/agent/a"] if protocol == "h2c" else []),
    ):
        status, _, body = edge.ask(path, headers=asked)
        assert status == 200
        assert "upgrade" not in json.loads(body)["headers"]


@pytest.mark.parametrize("size", [15_000, 23_000, 60_000])
def test_a_handshake_that_no_gateway_would_read_is_refused(edge: _Edge, size: int) -> None:
    """What is too long for a gateway is refused by the edge, which says so."""
    filling = {f"X-{number}": "x" * 20_000 for number in range(size // 20_000)}
    status, headers, _ = edge.ask("/ws/agent/a", headers={**filling, "X-Rest": "x" * (size % 20_000)})
    assert (status, headers["content-type"]) == (400, "application/problem+json")


def test_query_strings_are_in_no_log(edge: _Edge) -> None:
    """A ticket in the address, or in the referrer, is written down nowhere, upstream errors included."""
    edge.ask("/api/v1/auth/config?token=topsecret1", headers={"Referer": "http://x/?token=topsecret2"})
    edge.ask("/ws/agent/a-1?challenge=topsecret3&signature=topsecret4")
    edge.ask("/api/v1/nothing?x=topsecret5")
    edge.ask("/api/v1/agents", method="POST", body=b"topsecret6" * 400_000)
    last = edge.ask("/api/v1/agents/last?x=topsecret7", headers={"X-Request-Id": "the-last-one"})
    assert last[0] == 200
    lines = [json.loads(line) for line in edge.logged("the-last-one").splitlines()]
    assert {"/api/v1/auth/config", "/ws/agent/a-1"} <= {line["path"] for line in lines}
    assert "topsecret" not in edge.access_log.read_text() + edge.error_log.read_text()


def test_every_line_of_the_log_can_be_read(edge: _Edge) -> None:
    """Whatever bytes a client sends, a line is JSON in UTF-8 and one line."""
    with socket.create_connection(("127.0.0.1", edge.port), timeout=_PATIENCE_SECONDS) as client:
        client.sendall(
            b'GET /api/v1/agents/"\xff\xc3\xa9?x HTTP/1.1\r\nHost: x\r\nX-Request-Id: odd-bytes\r\n'
            b'User-Agent: curl/8 "a\\b\xff\xe2\x28\r\nConnection: close\r\n\r\n'
        )
        while client.recv(65_536):
            pass
    (line,) = [json.loads(each) for each in edge.logged("odd-bytes").splitlines() if "odd-bytes" in each]
    assert (line["path"], line["agent"]) == ('/api/v1/agents/"', 'curl/8 "a\\b')
    assert edge.ask("/api/v1/agents", headers={"X-Request-Id": "plain", "User-Agent": "Mozilla/5.0 (X11)"})
    (line,) = [json.loads(each) for each in edge.logged("plain").splitlines() if '"plain"' in each]
    assert (line["path"], line["agent"]) == ("/api/v1/agents", "Mozilla/5.0 (X11)")


def test_forged_forwarding_headers_are_overwritten(edge: _Edge) -> None:
    """A client cannot choose the address by which it is rate-limited."""
    forged = {"X-Forwarded-For": "1.2.3.4", "Forwarded": "for=1.2.3.4", "X-Forwarded-Proto": "https"}
    seen = json.loads(edge.ask("/api/v1/auth/config", headers=forged)[2])["headers"]
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert seen["x-forwarded-proto"] == "http"
    assert "forwarded" not in seen


def test_request_id_is_kept_if_harmless_and_replaced_otherwise(edge: _Edge) -> None:
    """The id reaches the service and the log; one that could break a log line does not."""
    kept = json.loads(edge.ask("/api/v1/agents", headers={"X-Request-Id": "abc_1-2"})[2])["headers"]
    assert kept["x-request-id"] == "abc_1-2"
    replaced = json.loads(edge.ask("/api/v1/agents", headers={"X-Request-Id": 'a"b c'})[2])["headers"]
    assert len(replaced["x-request-id"]) == 32
    assert edge.logged(replaced["x-request-id"])


def test_cross_origin_requests_of_named_origins_are_allowed(edge: _Edge) -> None:
    """A preflight is answered by the edge, and the answer to the request itself names the origin."""
    origin = "http://localhost:3000"
    status, headers, _ = edge.ask("/api/v1/agents", "OPTIONS", {"Origin": origin})
    assert status == 204
    assert headers["access-control-allow-origin"] == origin
    assert "Authorization" in headers["access-control-allow-headers"]
    status, headers, _ = edge.ask("/api/v1/agents", headers={"Origin": origin})
    assert (status, headers["access-control-allow-origin"]) == (200, origin)
    assert "Origin" in headers["vary"]


def test_other_origins_get_no_permission(edge: _Edge) -> None:
    """An origin that only looks like a named one is a foreign one."""
    for origin in (
        "https://evil.example",
        "http://localhost.evil.example",
        "http://127.0.0.1:80@evil.example",
    ):
        status, headers, _ = edge.ask("/api/v1/agents", headers={"Origin": origin})
        assert status == 200
        assert "access-control-allow-origin" not in headers
        assert edge.ask("/api/v1/agents", "OPTIONS", {"Origin": origin})[0] != 204


def test_too_large_bodies_are_refused_as_a_problem(edge: _Edge) -> None:
    """A body over the limit never reaches a service."""
    status, headers, body = edge.ask("/api/v1/agents", "POST", body=b"x" * 3_000_000)
    assert status == 413
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(body)["code"] == "invalid_argument"


def test_a_service_ends_a_body_that_takes_too_long(tmp_path: Path) -> None:
    """A body goes to the service as it comes, and the client hears what that says of it meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        service.settimeout(_PATIENCE_SECONDS)
        port = service.getsockname()[1]
        with (
            _edge(tmp_path, Upstreams(port, port, port, [port], [port])) as edge,
            socket.create_connection(("127.0.0.1", edge.port), timeout=_PATIENCE_SECONDS) as client,
        ):
            client.sendall(b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nab")
            asked, _ = service.accept()
            with asked:
                asked.settimeout(_PATIENCE_SECONDS)
                got = b""
                while not got.endswith(b"abc"):
                    if got.endswith(b"\r\n\r\nab"):
                        client.sendall(b"c")
                    got += asked.recv(65_536)
                asked.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            assert client.recv(65_536).startswith(b"HTTP/1.1 400")


def test_long_addresses_pass_and_endless_ones_are_refused(edge: _Edge) -> None:
    """A token of the largest accepted size is passed on; in the address of a socket, of 14 000 bytes."""
    assert edge.ask("/api/v1/agents", headers={"Authorization": "Bearer " + "t" * 16_384})[0] == 200
    assert edge.ask("/ws/dashboard?token=" + "t" * 14_000)[0] == 200
    status, _, body = edge.ask(f"/ws/dashboard?token={'t' * 60_000}")
    assert status == 400
    assert json.loads(body)["code"] == "invalid_argument"


@pytest.mark.parametrize(
    ("method", "target", "headers", "expected"),
    [
        ("TRACE", "/api/v1/agents", {}, 405),
        ("CONNECT", "example.test:443", {}, 405),
        ("POST", "/api/v1/agents", {"Transfer-Encoding": "gzip"}, 400),
    ],
)
def test_what_nginx_takes_from_nobody_is_a_problem_too(
    edge: _Edge, method: str, target: str, headers: dict[str, str], expected: int
) -> None:
    """What it refuses before it looks for a route has the form of every other error."""
    status, answered, body = edge.ask(target, method, headers=headers)
    assert (status, answered["content-type"]) == (expected, "application/problem+json")
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (expected, "invalid_argument")


def test_another_gateway_is_asked_when_one_is_down_or_draining(tmp_path: Path) -> None:
    """Clients do not notice that gateways are away, or refuse sockets with 503, as long as one serves."""
    with _upstream("up") as up, _upstream("draining", status=503) as draining:
        down, gone = free_port(), free_port()
        upstreams = Upstreams(
            auth=up,
            registry=down,
            metering=up,
            gateways_http=[up, down],
            gateways_ws=[draining, down, gone, up],
        )
        with _edge(tmp_path, upstreams) as edge:
            for _ in range(6):
                assert json.loads(edge.ask("/")[2])["name"] == "up"
                assert json.loads(edge.ask("/ws/agent/a")[2])["name"] == "up"


@pytest.mark.parametrize("path", ["/ws/agent/a", "/"])
def test_a_request_that_is_hung_up_on_takes_the_service_from_nobody(tmp_path: Path, path: str) -> None:
    """Whoever finds a request that no gateway answers gets 503; the others get their answers meanwhile."""
    with _upstream("gateway-1") as first, _upstream("gateway-2") as second:
        upstreams = Upstreams(first, first, first, [first, second], [first, second])
        with _edge(tmp_path, upstreams) as edge:
            for _ in range(3):
                assert edge.ask(path, headers={"X-Hang-Up": "1"})[0] == 503
                assert edge.ask(path)[0] == 200


def test_a_service_that_is_down_is_unavailable_as_a_problem(tmp_path: Path) -> None:
    """The answer is 503, in the form of every other error, with the id that is in the log."""
    down = free_port()
    upstreams = Upstreams(auth=down, registry=down, metering=down, gateways_http=[down], gateways_ws=[down])
    with _edge(tmp_path, upstreams) as edge:
        status, headers, body = edge.ask("/api/v1/agents?secret=topsecret")
        assert status == 503
        assert headers["content-type"] == "application/problem+json"
        assert json.loads(body)["code"] == "unavailable"
        assert edge.logged(json.loads(body)["instance"])
        assert "topsecret" not in edge.access_log.read_text() + edge.error_log.read_text()


def test_a_killed_edge_leaves_nothing_that_holds_its_port(tmp_path: Path) -> None:
    """SIGKILL takes nginx's worker along, so that the edge can be started again on the same port."""
    with _upstream("up") as up:
        upstreams = Upstreams(auth=up, registry=up, metering=up, gateways_http=[up], gateways_ws=[up])
        with _edge(tmp_path, upstreams) as edge:
            edge.process.kill()
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while not is_free(edge.port):
                assert time.monotonic() < deadline, "somebody still listens"
                time.sleep(0.01)
            edge.process.start()
            edge.process.wait_ready()
            assert edge.ask("/")[0] == 200


def test_rendering_names_the_values_that_are_missing(tmp_path: Path) -> None:
    """A template with a place for which nothing is known is refused instead of being rendered with a hole."""
    template = tmp_path / "x.template"
    template.write_text("listen ${EDGE_LISTEN}; $host ${EDGE_OTHER}")
    with pytest.raises(StackError, match="EDGE_OTHER"):
        render(template, {"EDGE_LISTEN": "80"})
    assert render(template, {"EDGE_LISTEN": "80", "EDGE_OTHER": "x"}) == "listen 80; $host x"


def test_every_value_of_the_site_is_documented() -> None:
    """The README's table has each variable that someone who renders the template must give."""
    edge = repository_root() / "edge"
    template = (edge / "templates" / "artcafe.conf.template").read_text()
    readme = (edge / "README.md").read_text()
    places = {part.split("}")[0] for part in template.split("${")[1:]} - {"EDGE_..."}
    assert places
    assert {name for name in places if name not in readme} == set()


def test_the_site_is_valid_with_names_that_are_looked_up_again(tmp_path: Path) -> None:
    """Containers give the template names instead of addresses, of services that are not there yet."""
    values = {
        "EDGE_LISTEN": "listen 8080;",
        "EDGE_RESOLVER": "resolver 127.0.0.11 valid=1s;",
        "EDGE_AUTH_SERVERS": "server auth:8101 resolve;",
        "EDGE_REGISTRY_SERVERS": "server registry:8102 resolve;",
        "EDGE_METERING_SERVERS": "server metering:8103 resolve;",
        "EDGE_GATEWAY_HTTP_SERVERS": "server gateway:8104 resolve;",
        "EDGE_GATEWAY_WS_SERVERS": "server gateway:8105 resolve;",
        "EDGE_CORS_ORIGINS": '"https://app.example.com" $http_origin;',
        "EDGE_REAL_IP": "set_real_ip_from 10.0.0.0/8; real_ip_header X-Forwarded-For;",
        "EDGE_CONNECTIONS_PER_ADDRESS": "10000",
        "EDGE_ACCESS_LOG": "/dev/stdout",
    }
    site = render(repository_root() / "edge" / "templates" / "artcafe.conf.template", values)
    frame = tmp_path / "nginx.conf"
    frame.write_text(f"pid {tmp_path}/pid; error_log stderr; events {{}}\nhttp {{\n{site}\n}}\n")
    done = subprocess.run(
        [str(binaries.nginx()), "-t", "-p", str(tmp_path), "-c", str(frame)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
