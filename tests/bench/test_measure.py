"""Costs of a command are those of its whole process tree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.measure import CommandFailed, measure, session_cpu_s

GRANDCHILD = """
import time
block = bytearray(60_000_000)
block[::4096] = b"x" * len(block[::4096])
end = time.process_time() + 0.3
while time.process_time() < end:
    pass
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '''{GRANDCHILD}'''], check=True)"


def test_time_and_memory_of_a_grandchild_count(tmp_path: Path) -> None:
    cost = measure([sys.executable, "-c", PARENT], log=tmp_path / "log")
    assert cost.cpu_s >= 0.3
    assert cost.wall_s >= 0.3
    assert 60_000_000 < cost.peak_anonymous < 200_000_000


def test_a_daemon_that_nobody_waits_for_counts_for_the_session(tmp_path: Path) -> None:
    parent = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '''{GRANDCHILD}'''], start_new_session=True)"
    )
    assert (
        session_cpu_s([sys.executable, "-c", parent + "; import time; time.sleep(0.3)"], log=tmp_path / "log") >= 0.28
    )


def test_of_a_process_beside_a_command_only_what_it_used_meanwhile_counts(tmp_path: Path) -> None:
    busy = "import time; end = time.process_time() + 0.6\nwhile time.process_time() < end: pass\nprint(flush=True)"
    worked = f"{busy}\ninput()\n{busy}\ninput()"  # when told to, once more
    with subprocess.Popen([sys.executable, "-c", worked], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as beside:
        assert beside.stdin is not None
        assert beside.stdout is not None
        beside.stdout.readline()
        idle = session_cpu_s([sys.executable, "-c", ""], log=tmp_path / "log", beside=[beside.pid])
        beside.stdin.write(b"\n")
        beside.stdin.flush()
        waiting = "import sys; open(sys.argv[1]).readline()"
        reader = [sys.executable, "-c", waiting, f"/proc/{os.getpid()}/fd/{beside.stdout.fileno()}"]
        served = session_cpu_s(reader, log=tmp_path / "log", beside=[beside.pid])
        beside.stdin.close()
    assert served - idle >= 0.5


def test_bytes_read_and_written_are_counted(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(bytes(3_000_000))
    cost = measure(
        ["sh", "-c", f"cat {tmp_path}/in > /dev/null; head -c 1000000 {tmp_path}/in > {tmp_path}/out"],
        log=tmp_path / "log",
    )
    assert cost.read_bytes >= 4_000_000
    assert cost.written_bytes >= 1_000_000


def test_a_command_that_fails_is_an_error_with_the_end_of_its_output(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"ended with 3:\nno such luck"):
        measure(["sh", "-c", "echo no such luck; exit 3"], log=tmp_path / "log")
