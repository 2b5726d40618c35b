"""What the operating system says of processes: CPU time, memory; and which cores there are."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Linux's number of another process's CPU clock: its id, complemented, and the kind CPUCLOCK_SCHED.
_CPUCLOCK_SCHED = 2
# utime and stime are the 14th and 15th field of stat (proc(5)); what follows the name begins with the third.
_UTIME, _STIME = 11, 12


def cpu_ticks_seconds(pid: int, proc: Path = _PROC) -> float:
    """Return the CPU seconds, user and system, of a process with all its threads, in steps of one tick."""
    stat = (proc / str(pid) / "stat").read_text()
    # The name stands in parentheses and may hold anything, parentheses too.
    fields = stat[stat.rindex(")") + 2 :].split()
    return (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_SECOND


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process with all its threads: by its own clock, else in ticks."""
    try:
        return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return cpu_ticks_seconds(pid)


def resident_bytes(pid: int, proc: Path = _PROC) -> int:
    """Return the resident memory of a process."""
    return int((proc / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES


def family(pid: int, proc: Path = _PROC) -> list[int]:
    """Return a process and all that it has started, directly or not (nginx works in its children)."""
    found = [pid]
    for parent in found:
        for children in (proc / str(parent) / "task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


class CpuMeter:
    """CPU time that named processes, with their children, use from one moment to another."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        # Seconds of each process, by name and then pid.
        self._before = {name: _read(family(pid)) for name, pid in pids.items()}

    def used(self) -> dict[str, float]:
        """Return the CPU seconds since the meter was made, by name; without children that ended since."""
        return {
            name: sum(seconds - before[pid] for pid, seconds in _read(before).items())
            for name, before in self._before.items()
        }


def _read(pids: Iterable[int]) -> dict[int, float]:
    """Return the CPU seconds of those processes that are there: Valkey's child that saves comes and goes."""
    found: dict[int, float] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            found[pid] = cpu_seconds(pid)
    return found


def split_cores() -> tuple[int, int]:
    """Return the core for the servers and the one for the load generator; the same where there is one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


def machine_facts() -> dict[str, str | int | float]:
    """Return what a reader of the numbers must know of the machine."""
    cpu = ""
    for line in (_PROC / "cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory_kib = int((_PROC / "meminfo").read_text().split()[1])
    system = os.uname()
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 1,
        "memory_mib": memory_kib // 1024,
        "system": f"{system.sysname} {system.release} {system.machine}",
        "load_average": round(os.getloadavg()[0], 2),
    }
