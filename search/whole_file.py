"""Files for other tools, there whole or not at all: written beside their place, flushed to disk, then put there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine import failpoints


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what shall stand at `path`; what an interrupted attempt left there is removed first."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    yield partial
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    failpoints.reach("export.written")
    partial.replace(path)
