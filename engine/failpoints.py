"""Steps at which a process can be made to die, so that a test sees what a crash there leaves behind.

`MERGEFLEET_FAILPOINT=STEP` kills the process (SIGKILL, to itself) when it comes to that step for the first time,
`STEP:n` for the n-th. Without the variable a step is one look at a global.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

STEPS: Mapping[str, str] = {
    "partial.made": "OUT.partial is there, and nothing in it",
    "partial.locked": "it is locked, without a journal",
    "journal.made": "the journal is there, empty",
    "journal.append": "something is to be recorded",
    "journal.appended": "it is",
    "file.made": "a file of the output is there, empty",
    "file.reserved": "its space is reserved, and it has no header",
    "file.write": "the next 128 KiB of a file of the output are to be written",
    "tile.written": "a tile is in its file, and nobody knows",
    "small_file.write": "a file beside the tensors is to be written",
    "publish.flushed": "all is on the disk, before the rename",
    "publish.aside": "the stage that is replaced was moved aside, and nothing is in its place",
    "publish.renamed": "OUT is there, and OUT.partial too",
    "remove.entry": "an entry of OUT.partial is to be removed",
    "remove.empty": "OUT.partial is there, and nothing in it any more",
}
"""Every step, by its name: what is done, and what is not."""


class _Armed:
    """Which step kills, and how often it must be reached before it does."""

    step: str | None = None
    left = 0


def arm(wanted: str | None) -> None:
    """Die at `wanted` ("STEP" or "STEP:n") from now on; None: nowhere. ValueError where there is no such step."""
    step, _, count = (wanted or "").partition(":")
    if step and step not in STEPS:
        raise ValueError(f"MERGEFLEET_FAILPOINT: got {step!r}, known: {', '.join(STEPS)}.")
    _Armed.step, _Armed.left = step or None, int(count or 1)


def reach(step: str) -> None:
    """The process is at this step."""
    if _Armed.step is not None:
        _die_at(step)


def _die_at(step: str) -> None:
    if step != _Armed.step:
        return
    _Armed.left -= 1
    if _Armed.left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get("MERGEFLEET_FAILPOINT"))
