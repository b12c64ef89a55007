"""What an audit file must show beside a journal: nothing starts that is journalled already."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from engine.audit import Start, read_starts

Place = tuple[str, int]
"""A tile: tensor and first block."""


def journalled(journal: Path) -> set[Place]:
    """The tiles in a journal that another process may be writing; read without the engine's own reader."""
    try:
        lines = journal.read_bytes().split(b"\n")[:-1]  # behind the last newline stands what is being written
    except FileNotFoundError:  # published, or not begun
        return set()
    records = [json.loads(line.split(b" ", 2)[2]) for line in lines]
    return {(record["tensor"], record["first"]) for record in records if "tensor" in record}


class Watch:
    """Looks at journal and audit file again and again; `late` are the starts of tiles that were journalled before.

    `finished` gives the tiles that are in the journal now, as `journalled` does.
    """

    def __init__(self, finished: Callable[[], set[Place]], audit: Path) -> None:
        self._finished = finished
        self._audit = audit
        self._done: set[Place] = set()
        self._seen = 0
        self.late: list[Start] = []

    def look(self) -> None:
        """The journal is read first: a start that this look does not find comes after all that it saw there."""
        done = self._finished()
        starts = read_starts(self._audit)
        self.late += [start for start in starts[self._seen :] if (start.tensor, start.first) in self._done]
        self._seen = len(starts)
        self._done |= done

    @property
    def starts(self) -> int:
        return self._seen
