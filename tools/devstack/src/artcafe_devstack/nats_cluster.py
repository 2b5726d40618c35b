"""Three servers of NATS as one cluster on this machine, started as Kubernetes starts them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artcafe_devstack import binaries, probes
from artcafe_devstack.ports import free_port
from artcafe_devstack.process import ManagedProcess, ProcessSpec, StackError
from artcafe_devstack.repository import repository_root

USERS = ("auth", "registry", "gateway", "metering", "routes")
_ATTEMPTS = 3


class NatsCluster:
    """Three servers; the password of a user is `p0` and the user's name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        secrets = folder / "secrets"
        secrets.mkdir()
        for user in USERS:
            (secrets / f"nats_{user}_password").write_text(f"p0{user}\n")
        clients, routes = [free_port() for _ in range(3)], [free_port() for _ in range(3)]
        self.addresses = [f"127.0.0.1:{port}" for port in clients]
        self.url = ",".join(f"nats://{address}" for address in self.addresses)
        peers = " ".join(f"127.0.0.1:{port}" for port in routes)
        self.servers = {
            f"nats-{number}": self._server(f"nats-{number}", client, route, peers)
            for number, (client, route) in enumerate(zip(clients, routes, strict=True))
        }

    def _server(self, name: str, port: int, route: int, peers: str) -> ManagedProcess:
        folder = self._folder / name
        folder.mkdir()
        start = repository_root() / "deploy" / "nats" / "start.sh"
        return ManagedProcess(
            ProcessSpec(
                name=name,
                argv=[
                    *("sh", str(start), "--addr", "127.0.0.1", "--port", str(port)),
                    *("--http_port", str(free_port()), "--store_dir", str(folder)),
                    *("--pid", str(folder / "pid")),
                ],
                env={
                    "PATH": f"{binaries.nats_server().parent}:{os.environ['PATH']}",
                    "NATS_CONFIG_DIR": str(start.parent),
                    "NATS_SECRETS_DIR": str(self._folder / "secrets"),
                    "NATS_SERVER_NAME": name,
                    "NATS_PEERS": peers,
                    "NATS_CLUSTER_LISTEN": f"127.0.0.1:{route}",
                },
                log=folder / "server.log",
                ready=probes.nats_ready(port),
                cwd=folder,
            )
        )

    def set_password(self, user: str, password: str) -> None:
        """Change a user's password; a server knows it from its next start on."""
        (self._folder / "secrets" / f"nats_{user}_password").write_text(f"{password}\n")

    def start(self) -> None:
        """Start all three and wait until they serve."""
        for server in self.servers.values():
            server.start()
        for server in self.servers.values():
            server.wait_ready()

    def stop(self) -> None:
        """Stop those that run."""
        for server in self.servers.values():
            server.ask_to_stop()
        for server in self.servers.values():
            server.wait_stopped(10)


@contextmanager
def nats_cluster(folder: Path) -> Iterator[NatsCluster]:
    """Run a cluster, on other ports where somebody took one meanwhile."""
    for attempt in range(_ATTEMPTS):
        place = folder / str(attempt)
        place.mkdir()
        running = NatsCluster(place)
        try:
            running.start()
            break
        except StackError:
            running.stop()
            if attempt == _ATTEMPTS - 1:
                raise
    try:
        yield running
    finally:
        running.stop()
