"""Families that several test files merge: made once, by whichever test process is first, and reused between runs."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock

from bench.families import Family
from bench.torture import torture_family

FAMILIES = Path(os.environ.get("TMPDIR", "/tmp")) / f"mergefleet-tests-{os.getuid()}"


def shared_family(name: str, *, mixed: bool = False, giant: bool = False) -> Family:
    """`bench.torture.torture_family` under this name."""
    FAMILIES.mkdir(exist_ok=True)
    with FileLock(FAMILIES / f"{name}.lock"):
        return torture_family(FAMILIES / name, mixed=mixed, giant=giant)
