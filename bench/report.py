"""The figures of a run as a markdown table, and their place in docs/performance.md."""

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
BARS = {"linear": 6, "slerp": 8, "task_arithmetic": 6, "ties": 22, "dare_ties": 12}  # × fewer CPU-s than mergekit
GOALS = {"linear": 1.2, "slerp": 1.5, "task_arithmetic": 1.2, "ties": 2.0, "dare_ties": 2.0}  # × copying


@dataclass(frozen=True)
class Row:
    """One method: how many models it reads, and its costs, None where it was not run."""

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


def table(rows: Sequence[Row]) -> str:
    """The rows as markdown; CPU and wall in seconds, memory in MB, bytes read in GB."""
    lines = [
        "| method | copying: CPU · wall | mergekit 0.1.5: CPU · wall · peak "
        "| mergefleet: CPU (user + sys) · wall · peak · read "
        "| × fewer CPU-s (bar) | × copying beyond start-up (goal) | start-up CPU | cold CPU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours, fewer, ratio = row.mergefleet, row.against_mergekit, row.against_copying
        cells = [
            row.method,
            f"{row.copying.cpu_s:.2f} · {row.copying.wall_s:.2f}",
            _NONE
            if row.mergekit is None
            else f"{row.mergekit.cpu_s:.1f} · {row.mergekit.wall_s:.1f} · {_mb(row.mergekit)}",
            _NONE
            if ours is None
            else f"**{ours.cpu_s:.2f}** ({ours.user_s:.2f} + {ours.system_s:.2f}) · {ours.wall_s:.2f} · {_mb(ours)} "
            f"· {ours.read_bytes / 1e9:.1f} GB",
            _NONE if fewer is None else f"{fewer:.1f} ({BARS[row.method]})",
            _NONE if ratio is None else f"{ratio:.2f} ({GOALS[row.method]})",
            _NONE if row.start_up is None else f"{row.start_up.cpu_s:.2f}",
            _NONE if row.cold is None else f"{row.cold.cpu_s:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def provenance(command: str, busiest: float) -> str:
    """When, at which commit, on which machine, and the highest load average that was seen meanwhile."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "unknown CPU",
    )
    return (
        f"{datetime.date.today()}, commit {commit or 'none'}, {os.cpu_count()} cores of {model}, load average "
        f"up to {busiest:.1f} (1 to 2 is the benchmark itself; more is other work, and inflates). Command: `{command}`."
    )


def write_into(page: Path, text: str) -> None:
    """Replace what lies between the page's two bench marks by `text`."""
    head, rest = page.read_text().split(BEGIN)
    page.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def _mb(cost: Cost) -> str:
    return f"{cost.peak_anonymous / 1e6:.0f} MB"
