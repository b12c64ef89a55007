"""The audit file: every attempt at scoring an item, written before it starts.

One JSON object a line: candidate, item, split, attempt, pid, epoch, lease, at (seconds since 1970). A block's lines go
out in one `write` on an O_APPEND descriptor, so lines of several processes never mix; a torn last line (a kill in the
middle of the write) is skipped by the reader.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from search.ports import Work

_json = json.JSONEncoder(separators=(",", ":")).encode  # `dumps` makes an encoder for every call


def record_attempt(path: Path, work: Work) -> None:
    """Append one line per item of `work`; evaluators call it before they score the block."""
    facts: dict[str, Any] = {"candidate": work.candidate, "split": work.split, "attempt": work.attempt}
    facts |= {"pid": os.getpid(), "epoch": work.epoch, "lease": work.lease, "at": time.time()}
    rest = _json(facts).removeprefix("{")
    lines = "".join([f'{{"item":{_json(item)},{rest}\n' for item in work.items])
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, lines.encode())
    finally:
        os.close(descriptor)


def read_attempts(path: Path) -> list[dict[str, Any]]:
    """All attempts in the file, oldest first; torn lines are left out, a missing file is an empty list."""
    if not path.exists():
        return []
    attempts = []
    for line in path.read_bytes().split(b"\n"):
        try:
            attempts.append(json.loads(line))
        except ValueError:
            continue
    return attempts
