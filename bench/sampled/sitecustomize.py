"""Loaded by the interpreter of a process that `bench.counting` looks into: where it spends its CPU time.

A signal comes after each few milliseconds of CPU time, and it is noted what is at work. That costs the
process little, needs no change in it, and does not depend on what else the machine does: it is its own time.
"""

from __future__ import annotations

import json
import os
import signal
from types import FrameType

INTERVAL_SECONDS = 0.004
WRITE_EVERY = 50

_USAGE = f"{os.sep}artcafe_common{os.sep}usage{os.sep}"
# What gateways do for usage alone, in modules that do something else: module, functions.
_ELSEWHERE = {
    "fanout.py": {"settle", "_tally", "withhold", "delivered", "data_size"},
    "presence.py": {"_settle", "_count_time"},
}
_counts = {"all": 0}


def _function_of_usage(frame: FrameType | None) -> str | None:
    """Return the innermost function that is at work for usage."""
    while frame is not None:
        code = frame.f_code
        module = os.path.basename(code.co_filename)
        if _USAGE in code.co_filename or code.co_name in _ELSEWHERE.get(module, ()):
            return f"{module}:{code.co_name}"
        frame = frame.f_back
    return None


def _sample(_: int, frame: FrameType | None) -> None:
    _counts["all"] += 1
    if (name := _function_of_usage(frame)) is not None:
        _counts[name] = _counts.get(name, 0) + 1
    if _counts["all"] % WRITE_EVERY == 0:
        path = os.environ["BENCH_SAMPLES"]
        with open(f"{path}.new", "w") as file:
            json.dump(_counts, file)
        os.replace(f"{path}.new", path)


if "BENCH_SAMPLES" in os.environ:
    signal.signal(signal.SIGPROF, _sample)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)
