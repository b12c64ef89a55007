"""Files for other tools, there whole or not at all: written beside their place, flushed to disk, then put there."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine import failpoints
from engine.errors import NotWritten

_ADVICE = {
    errno.ENOSPC: "Free some space, and",
    errno.EDQUOT: "Free some space, and",
    errno.EROFS: "Copy the run to where it can be written, or mount this so, and",
}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what shall stand at `path`; what an interrupted attempt left there is removed first.

    Raises NotWritten where the disk or somebody's rights are in the way of it. All such files are made of the
    campaign's rows, and can be made again. What else goes wrong meanwhile, with other files too, stays what it is.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        failpoints.reach("export.written")
        partial.replace(path)
    except (OSError, sqlite3.OperationalError) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and not _is_of_writing(error, partial):
            raise
        raise _not_written(path, error) from error


def is_read_only(place: Path) -> bool:
    """Whether a file or folder that is there lies on a file system that takes no writes: an archive, a snapshot."""
    return bool(os.statvfs(place).f_flag & os.ST_RDONLY)


def _is_of_writing(error: OSError, partial: Path) -> bool:
    """Who fails to open, put or remove a file names it; `write` and `fsync` name none."""
    return error.filename is None or str(error.filename) == str(partial)


def _not_written(path: Path, error: OSError | sqlite3.OperationalError) -> NotWritten:
    number = error.errno if isinstance(error, OSError) else None
    said = (os.strerror(number) if number else str(error)).rstrip(".")
    advice = _ADVICE.get(number or 0, "When that is mended,")
    return NotWritten(
        f"{path}: cannot be written: {said}. What was scored is kept. {advice} run the command again (a search: with "
        "--resume).",
        path=str(path),
    )
