"""Processes by identity: who holds a store, is it still that process, and may it be ended from here.

A process id alone may have been given to somebody else since: identity is (pid, start time, host and boot).
"""

from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

KILL_WAIT_S = 5.0


@dataclass(frozen=True)
class ProcessIdentity:
    """`started` is field 22 of /proc/PID/stat (clock ticks since boot), `host` the host name and boot id."""

    pid: int
    started: str
    host: str


def this_process() -> ProcessIdentity:
    """The identity of the calling process."""
    return ProcessIdentity(os.getpid(), _start_time(os.getpid()) or "", this_host())


def this_host() -> str:
    """Host name and boot id: after a reboot, or in another container, a pid means something else."""
    boot = _read(Path("/proc/sys/kernel/random/boot_id"))
    namespace = str(Path("/proc/self/ns/pid").readlink()) if Path("/proc/self/ns/pid").is_symlink() else ""
    return f"{socket.gethostname()} {boot} {namespace}".strip()


def is_running(process: ProcessIdentity) -> bool:
    """Whether exactly this process runs on this host (a stopped one does; a zombie does not)."""
    if process.host != this_host() or not process.started:
        return False
    return _start_time(process.pid) == process.started


def is_stopped(process: ProcessIdentity) -> bool:
    """Whether it runs, but was stopped by a signal (SIGSTOP): it does nothing until it is continued."""
    state = _read(Path(f"/proc/{process.pid}/stat")).rpartition(")")[2].split()[:1]
    return is_running(process) and state == ["T"]


def end(process: ProcessIdentity) -> bool:
    """SIGKILL the process, if it runs on this host and is not the caller; True once it is gone."""
    if process.pid == os.getpid() or not is_running(process):
        return False
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    deadline = time.monotonic() + KILL_WAIT_S
    while is_running(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(process)


def _start_time(pid: int) -> str | None:
    """Start time of a live process; None where there is none, or only its zombie."""
    text = _read(Path(f"/proc/{pid}/stat"))
    fields = text.rpartition(")")[2].split()  # the command, in parentheses, may hold anything
    if len(fields) < 20 or fields[0] in "ZX":
        return None
    return fields[19]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
