"""Reading and writing files from within a kernel: without Python's lock, and one call for all sources of a block.

The calls are the C library's own. What fails in any way, even a read that was merely interrupted, is left to
`engine.tensorfile`, which does it again and says what went wrong.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from engine.kernels.cache import kernel
from engine.kernels.finite import count_nonfinite
from engine.tensorfile.writer import WRITE_BYTES

PIECE = 1 << 15
"""Elements of a row that a Stream reads at once: four such rows leave room in the second-level cache."""

# (file descriptor, address, bytes, offset in the file) → bytes done, or −1
_at_offset = types.intp(types.intc, types.uintp, types.uintp, types.int64)
_pread = types.ExternalFunction("pread", _at_offset)
_pwrite = types.ExternalFunction("pwrite", _at_offset)


class Stream(NamedTuple):
    """Rows of a block that are still in their files; `kernels.fused` reads a piece of them at a time.

    A row's stored values begin in file places[j, 0] (a descriptor) at places[j, 1] + skip; buffer is [N, PIECE].
    """

    places: Any  # int64[N, 2]
    skip: Any  # bytes
    buffer: Any


@kernel
def read_row(fd: Any, offset: Any, row: Any) -> Any:
    """Fill row[n] (contiguous) from `offset` on; False where not all could be read."""
    address, wanted, done = row.ctypes.data, row.shape[0] * row.itemsize, 0
    while done < wanted:
        got = _pread(fd, address + done, wanted - done, offset + done)
        if got <= 0:
            return False
        done += got
    return True


@kernel
def read_pieces(stream: Any, start: Any, end: Any, checked: Any) -> Any:
    """Read on from element `start` of the block, to `end` at most; up to where, or `start` where that failed.

    With `checked` what is not finite counts as what cannot be read.
    """
    n = min(PIECE, end - start)
    for j in range(stream.buffer.shape[0]):
        piece = stream.buffer[j, :n]
        if not read_row(stream.places[j, 0], stream.places[j, 1] + stream.skip + start * piece.itemsize, piece):
            return start
        if checked and count_nonfinite(piece):
            return start
    return start + n


@kernel
def read_rows(places: Any, skip: Any, rows: Any, n: Any) -> Any:
    """Fill the first n elements of each of rows[N, ≥ n] as a Stream of these places would; whether all are finite.

    False, too, where not all could be read.
    """
    bad = 0
    for j in range(rows.shape[0]):
        row = rows[j, :n]
        if not read_row(places[j, 0], places[j, 1] + skip, row):
            return False
        bad += count_nonfinite(row)
    return bad == 0


@kernel
def write(fd: Any, offset: Any, data: Any) -> Any:
    """Write all of data[n] at `offset`; False where that failed."""
    address, wanted, done = data.ctypes.data, data.shape[0] * data.itemsize, 0
    while done < wanted:
        step = min(WRITE_BYTES, wanted - done)
        put = _pwrite(fd, address + done, step, offset + done)
        if put <= 0:
            return False
        done += put
    return True
