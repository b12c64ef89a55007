"""What is said is expendable: nobody who reads stdout or stderr, and goes, may end hours of work by that."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO, cast

_READER_GONE = frozenset({errno.EPIPE, errno.EIO})  # `| head`; a terminal that hung up


def guard() -> None:
    """Let the command outlive whoever reads what it says. stderr is only told; on stdout are results, so a full disk is
    an error there."""
    sys.stdout = _guarded(sys.stdout, lambda failure: failure.errno in _READER_GONE)
    sys.stderr = _guarded(sys.stderr, lambda failure: True)
    if isinstance(sys.stdout, Expendable):  # a name that the terminal cannot show must not end a merge
        sys.stdout.escape()  # as stderr has it


class Expendable:
    """A text stream on which writing and flushing may fail unnoticed, where `forgiven` says so."""

    def __init__(self, stream: TextIO, forgiven: Callable[[OSError], bool]) -> None:
        self._stream, self._forgiven = stream, forgiven

    def write(self, text: str) -> int:
        """As any text stream, but what cannot be written is dropped. The next text is tried again: disks recover."""
        try:
            return self._stream.write(text)
        except OSError as failure:
            if not self._forgiven(failure):
                raise
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """As any text stream."""
        self.write("".join(lines))

    def flush(self) -> None:
        """As any text stream; Python's own flush at exit, whose failure is exit code 120, comes here too."""
        try:
            self._stream.flush()
        except OSError as failure:
            if not self._forgiven(failure):
                raise

    def escape(self) -> None:
        """Write characters that the encoding lacks as escapes."""
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _guarded(stream: TextIO | None, forgiven: Callable[[OSError], bool]) -> TextIO:
    if stream is None:  # `2>&-`: Python has none for a descriptor that is closed
        return Path(os.devnull).open("w")
    return stream if isinstance(stream, Expendable) else cast("TextIO", Expendable(stream, forgiven))
