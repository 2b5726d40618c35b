"""What the operating system says of processes."""

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench.processes import CpuMeter, cpu_seconds, cpu_ticks_seconds, family, machine_facts, resident_bytes

BURN = """
import sys, time
sys.stdin.readline()
while time.process_time() < 0.3: pass
print("burnt", flush=True)
sys.stdin.read()
"""
WITH_A_CHILD = """
import subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1]])
"""

CHILD_THAT_ENDS = """
import subprocess, sys
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
print(flush=True)
sys.stdin.readline()
child.stdin.close()
child.wait()
print(flush=True)
sys.stdin.read()
"""


def test_ticks_are_read_past_any_name(tmp_path: Path) -> None:
    """A process may be called `) S 1 (`; user and system time are still found."""
    folder = tmp_path / "7"
    folder.mkdir()
    fields = ["S", *["0"] * 10, "250", "50", *["0"] * 20]
    (folder / "stat").write_text(f"7 () S 1 () {' '.join(fields)}\n")
    assert cpu_ticks_seconds(7, tmp_path) == pytest.approx(3.0)


def test_both_clocks_agree_on_another_process() -> None:
    """The process's own clock and the ticks tell the same within a few ticks."""
    with subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        exact, ticks = cpu_seconds(process.pid), cpu_ticks_seconds(process.pid)
        process.stdin.close()
    assert exact >= 0.3
    assert exact == pytest.approx(ticks, abs=0.05)


def test_meter_counts_what_a_child_uses() -> None:
    """A server that works in its children is charged for them."""
    with subprocess.Popen(
        [sys.executable, "-c", WITH_A_CHILD, BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        deadline = time.monotonic() + 30
        while len(family(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        meter = CpuMeter({"server": process.pid})
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        used = meter.used()["server"]
        process.stdin.close()
    assert used > 0.2


def test_memory_of_a_process_grows_with_what_it_holds() -> None:
    """Twenty written MiB are seen as such."""
    before = resident_bytes(os.getpid())
    # Pages of its own: an allocator may have some left from before.
    with mmap.mmap(-1, 20 << 20) as held:
        held.write(b"x" * (20 << 20))
        assert resident_bytes(os.getpid()) - before > 19 << 20


def test_machine_facts_name_processor_and_memory() -> None:
    """A result without its machine says nothing."""
    facts = machine_facts()
    assert facts["cpu"] and facts["cores"] and facts["memory_mib"]


def test_child_that_ends_while_it_is_measured_does_no_harm() -> None:
    """Valkey's child that saves comes and goes: what is measured goes on with the others."""
    argv = [sys.executable, "-c", CHILD_THAT_ENDS]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        parent.stdout.readline()
        assert len(family(parent.pid)) == 2
        meter = CpuMeter({"parent": parent.pid})
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        parent.stdout.readline()
        assert len(family(parent.pid)) == 1
        assert meter.used()["parent"] >= 0.0
