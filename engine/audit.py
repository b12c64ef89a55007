"""The audit file of merges: every start of a tile, in every process, written before its work begins.

`MERGEFLEET_AUDIT=FILE` asks for it. One JSON object a line: tensor, first (block of the tile), tile (its number), pid,
host. A line goes out in one `write` on an O_APPEND descriptor, so the lines of several processes never mix and stand
in the order of the starts: the n-th line of a tile is its n-th attempt.
"""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.planning.plan import Plan, Tile


@dataclass(frozen=True)
class Start:
    """One start of a tile: the how manyth of it, and in which process."""

    tensor: str
    first: int
    tile: int
    attempt: int
    pid: int
    host: str


def audit_file() -> Path | None:
    """Where the environment wants the audit; absolute, because a worker may stand in another directory."""
    wanted = os.environ.get("MERGEFLEET_AUDIT")
    return Path(wanted).absolute() if wanted else None


def recorder(path: Path | None, plan: Plan) -> Callable[[Tile], None]:
    """What is to be called when a tile of `plan` starts."""
    if path is None:
        return lambda tile: None
    process = {"pid": os.getpid(), "host": socket.gethostname()}

    def record(tile: Tile) -> None:
        facts = {"tensor": plan.tensors[tile.tensor].name, "first": tile.first, "tile": tile.number, **process}
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, json.dumps(facts, separators=(",", ":")).encode() + b"\n")
        finally:
            os.close(fd)

    return record


def read_starts(path: Path) -> list[Start]:
    """All starts in the file, oldest first; a missing file is an empty list."""
    attempts: Counter[tuple[str, int]] = Counter()
    starts = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        facts = json.loads(line)
        place = facts["tensor"], facts["first"]
        attempts[place] += 1
        starts.append(Start(*place, facts["tile"], attempts[place], facts["pid"], facts["host"]))
    return starts
