"""The audit file: every attempt at scoring items, written before it starts.

One JSON object a line and block: candidate, split, attempt, pid, epoch, lease, at (seconds since 1970), items. A line
goes out in one `write` on an O_APPEND descriptor, so lines of several processes never mix; a torn line (a kill in the
middle of the write, a full disk) is skipped by the reader, and the next one begins anew.
"""

from __future__ import annotations

import json
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from search.ports import Work

_json = json.JSONEncoder(separators=(",", ":")).encode  # `dumps` makes an encoder for every call


def record_attempt(path: Path, work: Work) -> None:
    """Append the line of `work`; evaluators call it before they score the block."""
    facts: dict[str, Any] = {"candidate": work.candidate, "split": work.split, "attempt": work.attempt}
    facts |= {"pid": os.getpid(), "epoch": work.epoch, "lease": work.lease, "at": time.time()}
    line = f'{_json(facts)[:-1]},"items":{_items(work.items)}}}\n'
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
        os.write(descriptor, ("\n" * torn + line).encode())
    finally:
        os.close(descriptor)


@lru_cache(16)  # the candidates of a cohort are scored on one window
def _items(items: tuple[str, ...]) -> str:
    return _json(items)


def read_attempts(path: Path) -> list[dict[str, Any]]:
    """All attempts in the file, oldest first, with one `item` each; torn lines are left out, a missing file is an empty
    list."""
    if not path.exists():
        return []
    attempts: list[dict[str, Any]] = []
    for line in path.read_bytes().split(b"\n"):
        try:
            facts = json.loads(line)
        except ValueError:
            continue
        items = facts.pop("items", None)  # without: a line of an earlier version, which wrote one an item
        attempts += [facts] if items is None else [{"item": item, **facts} for item in items]
    return attempts
