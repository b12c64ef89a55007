"""What one command costs: CPU-seconds, wall seconds, peak anonymous memory and bytes, over its whole process tree."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_S = 0.05
_LINGER_S = 10.0  # for what ends after the command
_PAGE_KIB = 1024


@dataclass(frozen=True)
class Cost:
    """Figures of one command; bytes are those asked of read and write calls (mapped files are not in them)."""

    user_s: float
    system_s: float
    wall_s: float
    peak_anonymous: int
    read_bytes: int
    written_bytes: int

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s


class CommandFailed(Exception):
    """A measured command ended with another status than 0; the message carries the end of its output."""


def measure(command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None, log: Path) -> Cost:
    """Run `command` to its end, its output going to `log`, and say what it cost.

    CPU comes from wait4, so descendants count once their parents have waited for them; memory is the largest sum
    of RssAnon over the tree among samples 50 ms apart. Raises CommandFailed.
    """
    peak = [0]

    def look(tree: list[int]) -> None:
        peak[0] = max(peak[0], sum(_anonymous(member) for member in tree))

    start = time.perf_counter()
    with _started(command, environment, log) as process:
        _watch(process.pid, look)
        wall_s = time.perf_counter() - start
        read_bytes, written_bytes = _io_counts(process.pid)  # a zombie's counts include its children's
        usage = _end(process, command, log)
    return Cost(usage.ru_utime, usage.ru_stime, wall_s, peak[0], read_bytes, written_bytes)


def session_cpu_s(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    log: Path,
    beside: Sequence[int] = (),
) -> float:
    """CPU-seconds of `command` and of all that it started, whether anybody waits for them or not (Ray's daemons).

    `beside` are processes that serve it, such as a Ray that runs already: what they and theirs use meanwhile counts
    too. Taken from /proc every 50 ms: what a process does after the last look at it is missed. Raises CommandFailed.
    """
    ticks: dict[int, int] = {}
    before = {pid: _own_ticks(pid) for root in beside for pid in _tree(root)}

    def look(tree: list[int]) -> None:
        served = [pid for root in beside for pid in _tree(root)]
        for pid in {*tree, *served, *ticks}:
            ticks[pid] = max(ticks.get(pid, 0), _own_ticks(pid) - before.get(pid, 0))

    with _started(command, environment, log) as process:
        _watch(process.pid, look)
        look([process.pid])  # a zombie still knows
        _end(process, command, log)
    deadline = time.perf_counter() + _LINGER_S
    while any(Path(f"/proc/{pid}").exists() for pid in ticks.keys() - before) and time.perf_counter() < deadline:
        time.sleep(SAMPLE_S)
        look([])
    return sum(ticks.values()) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _started(
    command: Sequence[str | Path], environment: Mapping[str, str] | None, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        yield subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )


def _end(process: subprocess.Popen[bytes], command: Sequence[str | Path], log: Path) -> resource.struct_rusage:
    """Collect a process that has ended; what it used, or CommandFailed."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = log.read_text(errors="replace")[-2000:]
        raise CommandFailed(f"{' '.join(map(str, command))}\nended with {process.returncode}:\n{tail}")
    return usage


def wait_for_quiet(limit_s: float) -> None:
    """Wait until other processes leave this machine's cores nearly idle, at most `limit_s`."""
    start = time.perf_counter()
    while time.perf_counter() - start < limit_s and _busy_share(0.5) > 0.1:
        time.sleep(0.5)


def _busy_share(over_s: float) -> float:
    idle_before, all_before = _cpu_ticks()
    time.sleep(over_s)
    idle, total = _cpu_ticks()
    return 1 - (idle - idle_before) / max(1, total - all_before)


def _cpu_ticks() -> tuple[int, int]:
    ticks = [int(part) for part in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def _watch(pid: int, look: Callable[[list[int]], None]) -> None:
    """Show the tree to `look` every 50 ms, until the process has ended (and is still a zombie)."""
    descriptor = os.pidfd_open(pid)
    try:
        waiter = select.poll()
        waiter.register(descriptor, select.POLLIN)
        while not waiter.poll(SAMPLE_S * 1000):
            look(_tree(pid))
    finally:
        os.close(descriptor)


def _tree(root: int) -> list[int]:
    """The process and all its living descendants."""
    found = [root]
    for pid in found:  # grows while it is walked
        found.extend(_children(pid))
    return found


def _children(pid: int) -> list[int]:
    """Of all its threads; those that end meanwhile are left out."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found.extend(map(int, (task / "children").read_text().split()))
    return found


def _anonymous(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * _PAGE_KIB
    return 0


def _own_ticks(pid: int) -> int:
    """User and system time of one process, its children's left out; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[11]) + int(fields[12])


def _io_counts(pid: int) -> tuple[int, int]:
    counts = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(counts["rchar"]), int(counts["wchar"])
