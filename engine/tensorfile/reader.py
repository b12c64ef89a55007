"""Reading exact byte ranges from an open file; no mmap, no copies, no shared file position."""

from __future__ import annotations

import os

from engine.errors import SourceError


def read_exactly(fd: int, offset: int, buffer: memoryview, *, origin: object) -> None:
    """Fill `buffer` (contiguous, any item type) with the bytes of `fd` from `offset` on.

    Positional reads share no state, so any number of threads may read one descriptor.

    Raises SourceError naming `origin` (whose text is made only then) where the file ends early or the device fails.
    """
    view = buffer.cast("B") if buffer.format != "B" or buffer.ndim != 1 else buffer
    done, wanted = 0, len(view)
    while done < wanted:  # the kernel reads at most 2 GiB a call, and less where a signal interrupts it
        try:
            got = os.preadv(fd, [view[done:]], offset + done)
        except OSError as error:
            raise SourceError(f"{origin}: reading at byte {offset + done:_} failed: {error.strerror}.") from error
        if got == 0:
            raise SourceError(
                f"{origin}: bytes {offset:_} to {offset + wanted:_} are needed, the file ends at {offset + done:_}. "
                "It was truncated after it was opened: restore or download it again."
            )
        done += got
