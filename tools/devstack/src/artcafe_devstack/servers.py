"""Single servers on free ports, for tests: NATS, Valkey, the AWS emulator.

Each is a context manager which yields a running server; the server can be killed, frozen and started
again, and is stopped at the end of the block. What it stores lies in the given folder and outlives it.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from artcafe_devstack import binaries, probes
from artcafe_devstack.ports import free_port
from artcafe_devstack.process import ManagedProcess, ProcessSpec, StackError

_ATTEMPTS = 3


class RunningServer:
    """A server that a test may treat badly."""

    def __init__(self, process: ManagedProcess, port: int, url: str) -> None:
        self.process = process
        self.port = port
        self.url = url

    @property
    def pid(self) -> int | None:
        """The id of the process, None while it does not run."""
        return self.process.pid

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.process.spec.log

    def kill(self) -> None:
        """Crash it (SIGKILL)."""
        self.process.kill()

    def stop(self) -> None:
        """Stop it cleanly."""
        self.process.stop()

    def start(self) -> None:
        """Start it again after `kill` or `stop`, on the same port and folder, and wait until it serves."""
        self.process.start()
        self.process.wait_ready()

    def freeze(self) -> None:
        """Suspend it (SIGSTOP)."""
        self.process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self.process.send(signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class AwsEndpoint:
    """Where the emulator is and with what to talk to it; another access key is another, empty account."""

    url: str
    access_key_id: str = "000000000000"
    secret_access_key: str = "test"  # the one by which the emulator checks presigned addresses
    region: str = "us-east-1"

    def environment(self) -> dict[str, str]:
        """Return the variables by which a service finds it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_REGION": self.region,
        }


@contextmanager
def nats_server(
    folder: Path, *, port: int | None = None, config: Path | None = None, env: dict[str, str] | None = None
) -> Iterator[RunningServer]:
    """Run nats-server with JetStream; open to everyone unless a configuration file says otherwise."""
    with _running(lambda number: nats_spec(folder, number, config=config, env=env), "nats", port) as server:
        yield server


@contextmanager
def valkey_server(
    folder: Path, *, port: int | None = None, password: str | None = None, append_only: bool = True
) -> Iterator[RunningServer]:
    """Run Valkey; with `append_only` what it has acknowledged survives SIGKILL."""
    with _running(
        lambda number: valkey_spec(folder, number, password=password, append_only=append_only), "redis", port
    ) as server:
        if password:
            server.url = f"redis://:{password}@127.0.0.1:{server.port}/0"
        yield server


@contextmanager
def aws_emulator(
    folder: Path,
    *,
    port: int | None = None,
    durable: bool = True,
    rights: Path | None = None,
    key: str | None = None,
) -> Iterator[RunningServer]:
    """Run the emulator of DynamoDB and S3; with `durable` what it has acknowledged survives SIGKILL."""
    with _running(
        lambda number: emulator_spec(folder, number, durable=durable, rights=rights, key=key), "http", port
    ) as server:
        yield server


def nats_spec(
    folder: Path,
    port: int,
    *,
    config: Path | None = None,
    env: dict[str, str] | None = None,
    monitor: int | None = None,
) -> ProcessSpec:
    """Describe a nats-server which keeps its streams in a folder; `monitor` is the port of its HTTP pages."""
    folder.mkdir(parents=True, exist_ok=True)
    argv = [str(binaries.nats_server()), "--addr", "127.0.0.1", "--port", str(port), "--jetstream"]
    argv += ["--store_dir", str(folder.resolve())]
    if config is not None:
        argv += ["--config", str(config)]
    if monitor is not None:
        argv += ["--http_port", str(monitor)]
    return ProcessSpec(
        name="nats",
        argv=argv,
        env=env or {},
        log=folder / "server.log",
        ready=probes.nats_ready(port),
        cwd=folder,
    )


def valkey_spec(
    folder: Path, port: int, *, password: str | None = None, append_only: bool = True, log: Path | None = None
) -> ProcessSpec:
    """Describe a Valkey server which keeps its data in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    # Its settings come from a file, so that the password is not in the process list.
    settings = folder / "valkey.conf"
    lines = [
        f"port {port}",
        "bind 127.0.0.1",
        "protected-mode no",
        f'dir "{folder.resolve()}"',
        f"appendonly {'yes' if append_only else 'no'}",
        "appendfsync everysec",
        "save 30 1000" if append_only else 'save ""',
        # A copy-on-write warning of the kernel's settings is no business of a local stack.
        "ignore-warnings ARM64-COW-BUG",
    ]
    if password:
        lines.append(f"requirepass {password}")
    settings.touch(mode=0o600)
    settings.write_text("\n".join(lines) + "\n")
    return ProcessSpec(
        name="valkey",
        argv=[str(binaries.valkey_server()), str(settings.resolve())],
        log=log or folder / "server.log",
        ready=probes.valkey_ready(port, password),
        cwd=folder,
    )


def emulator_spec(
    folder: Path, port: int, *, durable: bool = True, rights: Path | None = None, key: str | None = None
) -> ProcessSpec:
    """Describe the AWS emulator with its journal in a folder.

    `rights` is a folder of policies, to which callers with a key such as ``rights.auth`` are held.
    With a `key` only those are answered whose access key id ends with a point and that key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    argv = [str(binaries.emulator_python()), "-P", "-c", _EMULATOR_START, str(Path(__file__).parent)]
    argv += ["--port", str(port)]
    if rights is not None:
        argv += ["--rights", str(rights.resolve())]
    if durable:
        argv += ["--folder", str((folder / "journal").resolve())]
    return ProcessSpec(
        name="aws",
        argv=argv,
        env={} if key is None else {"ARTCAFE_EMULATOR_KEY": key},
        log=folder / "server.log",
        ready=probes.http_ready(port, "/_ministack/health"),
        cwd=folder,
        stop_seconds=20,
    )


# The emulator's environment does not have this package. It is made known there by its folder alone: a
# search path would let the packages installed beside it shadow those of that environment.
_EMULATOR_START = """
import importlib.util, runpy, sys
folder = sys.argv.pop(1)
spec = importlib.util.spec_from_file_location(
    "artcafe_devstack", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["artcafe_devstack"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
runpy.run_module("artcafe_devstack.emulator", run_name="__main__", alter_sys=True)
"""


@contextmanager
def _running(
    describe: Callable[[int], ProcessSpec], scheme: str, port: int | None
) -> Iterator[RunningServer]:
    """Start a server, on another port if somebody took the first one meanwhile; stop it at the end."""
    for attempt in range(_ATTEMPTS):
        number = port or free_port()
        process = ManagedProcess(describe(number))
        try:
            process.start()
            process.wait_ready()
            break
        except StackError:
            process.kill()
            if port is not None or attempt == _ATTEMPTS - 1:
                raise
    try:
        yield RunningServer(process, number, f"{scheme}://127.0.0.1:{number}")
    finally:
        process.stop()
