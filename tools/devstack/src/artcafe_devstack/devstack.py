"""`DevStack`: the whole stack beside a test or a benchmark, which may kill and freeze its processes."""

import asyncio
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from artcafe_devstack.process import StackError
from artcafe_devstack.stack import ALL_SERVICES, Report, Stack, StackOptions

_TICK_SECONDS = 0.05


class DevStack:
    """A stack that runs beside the caller, in a thread of its own, for tests and benchmarks.

    Use it as a context manager, `with` or `async with`. Its methods may be called from anywhere, and none
    needs an event loop; those that wait block for at most the time they are given.
    """

    def __init__(
        self,
        folder: Path,
        *,
        services: frozenset[str] | set[str] = ALL_SERVICES,
        gateways: int = 2,
        edge_port: int | None = None,
        env: Mapping[str, Mapping[str, str]] | None = None,
        demo: bool = True,
        report: Report = lambda line: None,
    ) -> None:
        options = StackOptions(
            folder=folder,
            edge_port=edge_port,
            gateways=gateways,
            services=frozenset(services),
            env=env or {},
            demo=demo,
        )
        self._stack = Stack(options, report)
        self._stop = threading.Event()
        self._started: Future[None] = Future()
        self._thread: threading.Thread | None = None
        self.forced: list[str] = []

    def start(self) -> None:
        """Start everything and wait until it is ready.

        Raises:
            StackError: it could not be started; nothing is left running.
        """
        self._stop.clear()
        self._started = Future()
        self._thread = threading.Thread(target=self._own, name="devstack")
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop everything; `forced` then names the processes that did not end by themselves."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def _own(self) -> None:
        try:
            self._stack.start(self._stop)
        except BaseException as error:
            self._started.set_exception(error)
            return
        self._started.set_result(None)
        try:
            while not self._stop.wait(_TICK_SECONDS):
                self._stack.tick()
        finally:
            self.forced = self._stack.stop()

    # --- What is where ---

    @property
    def base_url(self) -> str:
        """The address of the edge."""
        return self._stack.base_url

    @property
    def urls(self) -> dict[str, dict[str, str]]:
        """The internal addresses, such as `urls["gateway-1"]["ws"]` and `urls["nats"]["nats"]`."""
        return self._stack.urls()

    @property
    def demo(self) -> dict[str, Any]:
        """What `demo.json` holds: address, tenant, sign-in, agents with their keys, pids, urls."""
        content = self._stack.state.read(self._stack.state.demo_file.name)
        if content is None:
            raise StackError("the stack is not ready")
        return dict(content)

    @property
    def secrets(self) -> dict[str, str]:
        """The passwords of this stack: `nats_gateway`, `valkey`, ..."""
        return dict(self._stack.secrets)

    def environment(self, name: str) -> dict[str, str]:
        """Return the settings of a service's process, to run a command of that service with."""
        return self._stack.environment(name, "gateway" if name.startswith("gateway") else name)

    @property
    def names(self) -> list[str]:
        """The names of the processes."""
        return self._stack.supervisor.names

    @property
    def pids(self) -> dict[str, int]:
        """The ids of the processes that run now, by name."""
        return self._stack.supervisor.pids()

    def log(self, name: str) -> Path:
        """Return where a process writes; the requests of the edge are in `edge-access`."""
        return self._stack.state.logs / f"{name}.log"

    # --- What a test may do to it ---

    def kill(self, name: str, *, restart: bool = True) -> None:
        """Crash a process (SIGKILL, with all it has started); it is started again unless told otherwise."""
        self._stack.supervisor.kill(name, restart=restart)

    def stop(self, name: str) -> bool:
        """Stop a process cleanly and leave it stopped; tell whether it ended by itself."""
        return self._stack.supervisor.stop(name)

    def start_again(self, name: str, *, seconds: float = 60.0) -> None:
        """Start a stopped process and wait until it is ready."""
        self._stack.supervisor.start(name)
        self.wait_ready(name, seconds=seconds)

    def restart(self, name: str, *, seconds: float = 60.0) -> None:
        """Stop a process cleanly, start it and wait until it is ready."""
        self.stop(name)
        self.start_again(name, seconds=seconds)

    def freeze(self, name: str) -> None:
        """Suspend a process (SIGSTOP)."""
        self._stack.supervisor.send(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let a frozen process go on (SIGCONT)."""
        self._stack.supervisor.send(name, signal.SIGCONT)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send any signal to a process."""
        self._stack.supervisor.send(name, number)

    def wait_ready(self, name: str, *, seconds: float = 60.0) -> None:
        """Wait until a process that crashed or was started again is ready."""
        self._stack.supervisor.wait_ready(name, seconds)

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        """Have a process crashed for the length of a block, and ready again after it."""
        self.kill(name, restart=False)
        try:
            yield
        finally:
            self.start_again(name)

    def __enter__(self) -> "DevStack":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> "DevStack":
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)
