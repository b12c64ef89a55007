"""The figures of a run as markdown tables, and their place in docs/performance.md."""

from __future__ import annotations

import datetime
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Cost

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
_NONE = "–"
BARS = {  # (family, method): × fewer CPU-seconds than mergekit
    ("1.1B", "linear"): 6,
    ("1.1B", "slerp"): 8,
    ("1.1B", "task_arithmetic"): 6,
    ("1.1B", "ties"): 22,
    ("1.1B", "dare_ties"): 12,
    ("0.3B", "della"): 10,
}
GOALS = {  # × copying, beyond start-up
    ("1.1B", "linear"): 1.2,
    ("1.1B", "slerp"): 1.5,
    ("1.1B", "task_arithmetic"): 1.2,
    ("1.1B", "ties"): 2.0,
    ("1.1B", "dare_ties"): 2.0,
    ("0.3B", "della"): 3.0,
    ("0.3B", "passthrough"): 1.2,
}


@dataclass(frozen=True)
class Row:
    """One method on one family: how many models it reads, and its costs, None where it was not run."""

    size: str
    method: str
    inputs: int
    copying: Cost
    mergefleet: Cost | None
    cold: Cost | None
    start_up: Cost | None
    mergekit: Cost | None

    @property
    def against_copying(self) -> float | None:
        """CPU-seconds beyond the fixed start-up, over those of copying."""
        if self.mergefleet is None or self.start_up is None:
            return None
        return (self.mergefleet.cpu_s - self.start_up.cpu_s) / self.copying.cpu_s

    @property
    def against_mergekit(self) -> float | None:
        """mergekit's CPU-seconds over ours, start-up included in both."""
        if self.mergefleet is None or self.mergekit is None:
            return None
        return self.mergekit.cpu_s / self.mergefleet.cpu_s

    @property
    def compiling(self) -> float | None:
        """CPU-seconds that a first run takes more, because it compiles its kernels."""
        if self.cold is None or self.start_up is None:
            return None
        return self.cold.cpu_s - self.start_up.cpu_s


def table(rows: Sequence[Row]) -> str:
    """The rows as markdown; CPU and wall in seconds, memory in MB, bytes read in GB."""
    lines = [
        "| method | copying: CPU · wall | mergekit 0.1.5: CPU · wall · peak "
        "| mergefleet: CPU (user + sys) · wall · peak · read "
        "| × fewer CPU-s (bar) | × copying beyond start-up (goal) | start-up CPU | compiling once |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines.extend("| " + " | ".join(_cells(row)) + " |" for row in rows)
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    ours, theirs, place = row.mergefleet, row.mergekit, (row.size, row.method)
    return [
        row.method,
        f"{row.copying.cpu_s:.2f} · {row.copying.wall_s:.2f}",
        _NONE if theirs is None else f"{theirs.cpu_s:.1f} · {theirs.wall_s:.1f} · {_mb(theirs)}",
        _NONE
        if ours is None
        else f"**{ours.cpu_s:.2f}** ({ours.user_s:.2f} + {ours.system_s:.2f}) · {ours.wall_s:.2f} · {_mb(ours)} "
        f"· {ours.read_bytes / 1e9:.1f} GB",
        _number(row.against_mergekit, 1) + _in_brackets(BARS.get(place)),
        _number(row.against_copying, 2) + _in_brackets(GOALS.get(place)),
        _NONE if row.start_up is None else f"{row.start_up.cpu_s:.2f}",
        _number(row.compiling, 1),
    ]


def provenance(command: str, busiest: float | None = None) -> str:
    """When, at which commit, on which machine, and the highest load average that was seen meanwhile, if any was."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "unknown CPU",
    )
    load = ""
    if busiest is not None:
        load = f", load average up to {busiest:.1f} (1 to 2 is the benchmark itself; more is other work, and inflates)"
    return f"{datetime.date.today()}, commit {commit()}, {os.cpu_count()} cores of {model}{load}. Command: `{command}`."


def commit() -> str:
    shown = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return shown.stdout.strip() or "none"


def write_into(page: Path, text: str, *, between: tuple[str, str] = (BEGIN, END)) -> None:
    """Replace what lies between the page's two marks by `text`."""
    begin, end = between
    head, rest = page.read_text().split(begin)
    page.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def _mb(cost: Cost) -> str:
    return f"{cost.peak_anonymous / 1e6:.0f} MB"


def _number(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _in_brackets(aim: float | None) -> str:
    return "" if aim is None else f" ({aim:g})"
