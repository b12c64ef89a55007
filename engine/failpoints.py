"""Steps at which a process can be made to die or to stop, so that a test sees what comes of it.

`MERGEFLEET_FAILPOINT=STEP` kills the process (SIGKILL, to itself) when it comes to that step for the first time,
`STEP:n` for the n-th; `STEP:n:STOP` stops it there (SIGSTOP), as on a machine that hangs. Without the variable a step
is one look at a global.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

DIRECTORY: Mapping[str, str] = {
    "partial.made": "OUT.partial is there, and nothing in it",
    "partial.locked": "it is locked, without a journal",
    "journal.made": "the journal is there, empty",
    "journal.append": "something is to be recorded",
    "journal.appended": "it is",
    "file.made": "a file of the output is there, empty",
    "file.reserved": "its space is reserved, and it has no header",
    "block.write": "a block of a tile is to be written",
    "tile.written": "a tile is in its file, and nobody knows",
    "small_file.write": "a file beside the tensors is to be written",
    "publish.flushed": "all is on the disk, before the rename",
    "publish.aside": "the stage that is replaced was moved aside, and nothing is in its place",
    "publish.renamed": "OUT is there, and OUT.partial too",
    "remove.entry": "an entry of OUT.partial is to be removed",
    "remove.empty": "OUT.partial is there, and nothing in it any more",
}
"""The steps of an output in a directory, by name: what is done, and what is not."""
BUCKET: Mapping[str, str] = {
    "bucket.begun": "the prefix is this plan's",
    "upload.piece": "the next piece of a file is to be uploaded",
    "upload.done": "a file is there, and nothing says that it is right",
    "upload.recorded": "it is said",
    "small_object.write": "a file beside the tensors is to be uploaded",
    "manifest.write": "all is there but the manifest",
    "manifest.written": "the output is complete, and the records of its making are there too",
    "object.remove": "one of them is to be removed",
}
"""Those of an output in an object store."""
CAMPAIGN: Mapping[str, str] = {
    "store.commit": "a transaction of a campaign's store is written, and not committed",
    "export.written": "a file for other tools lies beside its place, whole",
}
"""Those of a search."""
STEPS = {**DIRECTORY, **BUCKET, **CAMPAIGN}


class _Armed:
    """Which step strikes, with which signal, and how often it must be reached before it does."""

    step: str | None = None
    left = 0
    signal = signal.SIGKILL


def arm(wanted: str | None) -> None:
    """Strike at `wanted` from now on; None: nowhere. ValueError where there is no such step or signal."""
    step, count, name = [*(wanted or "").split(":"), "", ""][:3]
    if step and step not in STEPS:
        raise ValueError(f"MERGEFLEET_FAILPOINT: got {step!r}, known: {', '.join(STEPS)}.")
    _Armed.step, _Armed.left, _Armed.signal = step or None, int(count or 1), signal.Signals[f"SIG{name or 'KILL'}"]


def reach(step: str) -> None:
    """The process is at this step."""
    if _Armed.step is not None:
        _strike_at(step)


def _strike_at(step: str) -> None:
    if step != _Armed.step:
        return
    _Armed.left -= 1
    if _Armed.left == 0:
        os.kill(os.getpid(), _Armed.signal)


arm(os.environ.get("MERGEFLEET_FAILPOINT"))
