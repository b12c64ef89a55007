"""A process is known by pid, start time and host; only exactly that process is ever ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from search.store.takeover import ProcessIdentity, _start_time, end, is_running, this_host, this_process


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def identity(process: subprocess.Popen[bytes]) -> ProcessIdentity:
    started = _start_time(process.pid)
    assert started is not None
    return ProcessIdentity(process.pid, started, this_host())


def test_this_process_runs_and_is_never_ended_by_itself() -> None:
    assert is_running(this_process())
    assert not end(this_process())


def test_a_running_process_is_ended(sleeper: subprocess.Popen[bytes]) -> None:
    assert end(identity(sleeper))
    assert sleeper.wait() == -signal.SIGKILL


def test_a_stopped_process_runs_and_is_ended(sleeper: subprocess.Popen[bytes]) -> None:
    os.kill(sleeper.pid, signal.SIGSTOP)
    assert is_running(identity(sleeper))
    assert end(identity(sleeper))


@pytest.mark.parametrize("other", [{"started": "1"}, {"host": "elsewhere 1234"}, {"started": ""}])
def test_another_process_with_the_same_pid_is_left_alone(
    sleeper: subprocess.Popen[bytes], other: dict[str, str]
) -> None:
    stranger = replace(identity(sleeper), **other)
    assert not is_running(stranger)
    assert not end(stranger)
    assert sleeper.poll() is None


def test_a_process_that_ended_does_not_run_even_as_a_zombie(sleeper: subprocess.Popen[bytes]) -> None:
    known = identity(sleeper)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # leaves the zombie in the table
    assert not is_running(known)
