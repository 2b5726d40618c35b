"""Stop on SIGINT and SIGTERM, once and politely."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def on_stop_signal(callback: Callable[[], object]) -> Iterator[None]:
    """Call a function on the event loop at the first SIGINT or SIGTERM while the block runs.

    What was installed before is back from then on: a second Ctrl-C interrupts as usual. Outside the main
    thread, and where the platform's loop has no signal handlers, nothing is installed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    installed: list[signal.Signals] = []

    def restore() -> None:
        while installed:
            number = installed.pop()
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])

    def stop() -> None:
        restore()
        callback()

    try:
        for number in STOP_SIGNALS:
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, stop)
                installed.append(number)
        yield
    finally:
        restore()
