"""Gram matrices of the inputs, or of their differences from the base: of a whole block, of its rows, of its columns.

Legend: N rows of stored values; V vectors: all N rows, or with a base (row 0) the others minus it; P = V·(V+1)/2 dot
products, row by row of the upper triangle; R rows and C columns of the tensor.

Vectors are widened, and the base is subtracted, in float64: what fine-tunes changed is small, and its Gram matrix
could not be had from that of the models themselves. Sums run in float64 lanes (element i of a row goes to lane i mod
lanes, in order of i), two steps of all lanes at a time, and are folded by halves, as `numerics.lane_sum` and
`row_sums` do. Measured on bf16, one core, ns per element of a block (of rows of 4096 elements): two vectors 0.29
(0.41), three 0.51 (0.85), four 1.4 (1.7); minus a base 0.43 (0.60), 0.67 (1.1), 2.1 (2.1); two in columns 0.55.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from engine.kernels.cache import kernel
from engine.kernels.codec import decode
from engine.kernels.files import read_rows
from engine.kernels.measure import fold

LANES, ROW_LANES = 1024, 64
GROUP = 256
"""Lanes that `_many` works on at a time: two steps of a handful of vectors stay in the first-level cache."""


def of_block(rows: Any, n: int, out: Any, *, based: bool) -> None:
    """out[P] of the first n elements as one vector each."""
    _loop(rows, based)(rows, n, LANES, _switch(based), out.reshape(1, -1))


def of_blocks(stream: Any, n: int, out: Any, *, based: bool) -> bool:
    """out[B, P] of the B blocks in which the stream's next n elements lie; see `Stage.stream`."""
    places, skip, rows = stream
    return bool(_read_blocks(places, skip, rows, n, _switch(based), (None,) * (len(rows) - based), out))


def of_rows(rows: Any, columns: int, out: Any, *, based: bool) -> None:
    """out[R, P] of R rows of so many elements each."""
    _loop(rows, based)(rows, columns, ROW_LANES, _switch(based), out)


def of_columns(rows: Any, n: int, start: int, out: Any, *, based: bool) -> None:
    """out[3, C] += of two vectors in each of C columns; the block's first element is the tensor's `start`-th."""
    columns = out.shape[1]
    # where a block is less than one row, no column is met twice, and the products themselves may be added to `out`
    block = out if n <= columns else np.zeros(out.shape, np.float64)
    _columns(rows, n, start % columns, _switch(based), block)
    if block is not out:
        out += block


def _loop(rows: Any, based: bool) -> Any:
    return {2: _two, 3: _three}.get(len(rows) - based, _many)


def block_products(rows: Any, n: Any, based: Any, vectors: Any, out: Any) -> None:
    """`of_block` inside a kernel, for as many vectors as the tuple is long."""
    raise TypeError("block_products works inside kernels only")


@overload(block_products, strict=False)
def _block_products(rows: Any, n: Any, based: Any, vectors: Any, out: Any) -> Any:
    loop = {2: _two, 3: _three}.get(len(vectors), _many)
    return lambda rows, n, based, vectors, out: loop(rows, n, LANES, based, out)


@kernel
def _read_blocks(places: Any, skip: Any, rows: Any, n: Any, based: Any, vectors: Any, out: Any) -> Any:
    block = rows.shape[1]
    for number in range(out.shape[0]):
        here = min(block, n - number * block)
        if not read_rows(places, skip + number * block * rows.itemsize, rows, here):
            return False
        block_products(rows, here, based, vectors, out[number : number + 1])
    return True


def _switch(based: bool) -> Any:
    """What `_shifted` and `_base` tell apart by type, so that each case gets a loop of its own without branches."""
    return True if based else None


@kernel
def _shifted(value: Any, b: Any, i: Any) -> Any:
    """One stored element in float64, minus b[i] where there is a base."""
    if b is None:
        return np.float64(decode(value))
    return np.float64(decode(value)) - np.float64(decode(b[i]))


@kernel
def _base(rows: Any, based: Any, start: Any, end: Any) -> Any:
    """rows[0, start:end], or None."""
    if based is None:
        return None
    return rows[0, start:end]


@kernel
def _window(rows: Any, start: Any, end: Any, padded: Any) -> Any:
    """Where two steps of all lanes from `start` on lie: in the rows, or, where they reach `end`, copied and padded."""
    width = padded.shape[1]
    if start + width <= end:
        return rows, start
    n = end - start
    for j in range(rows.shape[0]):
        x, y = rows[j, start:end], padded[j]
        for i in range(n):
            y[i] = x[i]
        for i in range(n, width):
            y[i] = 0
    return padded, 0


@kernel
def _two(rows: Any, columns: Any, width: Any, based: Any, out: Any) -> None:
    first = rows.shape[0] - 2
    lanes = np.empty((3, width), np.float64)
    xx, xy, yy = lanes[0], lanes[1], lanes[2]
    padded = np.empty((rows.shape[0], 2 * width), rows.dtype)
    for r in range(out.shape[0]):
        lanes[:] = 0
        end = (r + 1) * columns
        for start in range(r * columns, end, 2 * width):
            source, a = _window(rows, start, end, padded)
            b, c = a + width, a + 2 * width
            x0, x1 = source[first, a:b], source[first, b:c]
            y0, y1 = source[first + 1, a:b], source[first + 1, b:c]
            b0, b1 = _base(source, based, a, b), _base(source, based, b, c)
            for i in range(width):
                p0, p1 = _shifted(x0[i], b0, i), _shifted(x1[i], b1, i)
                q0, q1 = _shifted(y0[i], b0, i), _shifted(y1[i], b1, i)
                xx[i] = (xx[i] + p0 * p0) + p1 * p1
                xy[i] = (xy[i] + p0 * q0) + p1 * q1
                yy[i] = (yy[i] + q0 * q0) + q1 * q1
        _fold_all(lanes, out[r])


@kernel
def _three(rows: Any, columns: Any, width: Any, based: Any, out: Any) -> None:
    first = rows.shape[0] - 3
    lanes = np.empty((6, width), np.float64)
    xx, xy, xz, yy, yz, zz = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4], lanes[5]
    padded = np.empty((rows.shape[0], 2 * width), rows.dtype)
    for r in range(out.shape[0]):
        lanes[:] = 0
        end = (r + 1) * columns
        for start in range(r * columns, end, 2 * width):
            source, a = _window(rows, start, end, padded)
            b, c = a + width, a + 2 * width
            x0, x1 = source[first, a:b], source[first, b:c]
            y0, y1 = source[first + 1, a:b], source[first + 1, b:c]
            z0, z1 = source[first + 2, a:b], source[first + 2, b:c]
            b0, b1 = _base(source, based, a, b), _base(source, based, b, c)
            for i in range(width):
                p0, p1 = _shifted(x0[i], b0, i), _shifted(x1[i], b1, i)
                q0, q1 = _shifted(y0[i], b0, i), _shifted(y1[i], b1, i)
                r0, r1 = _shifted(z0[i], b0, i), _shifted(z1[i], b1, i)
                xx[i] = (xx[i] + p0 * p0) + p1 * p1
                xy[i] = (xy[i] + p0 * q0) + p1 * q1
                xz[i] = (xz[i] + p0 * r0) + p1 * r1
                yy[i] = (yy[i] + q0 * q0) + q1 * q1
                yz[i] = (yz[i] + q0 * r0) + q1 * r1
                zz[i] = (zz[i] + r0 * r0) + r1 * r1
        _fold_all(lanes, out[r])


@kernel
def _many(rows: Any, columns: Any, width: Any, based: Any, out: Any) -> None:
    """Any number of vectors, widened into scratch memory, a group of lanes at a time."""
    first = 0 if based is None else 1
    group = min(width, GROUP)
    lanes = np.empty((out.shape[1], width), np.float64)
    wide = np.empty((rows.shape[0] - first, 2, group), np.float64)
    padded = np.empty((rows.shape[0], 2 * width), rows.dtype)
    for r in range(out.shape[0]):
        lanes[:] = 0
        end = (r + 1) * columns
        for start in range(r * columns, end, 2 * width):
            source, at = _window(rows, start, end, padded)
            for lane in range(0, width, group):
                for step in range(2):
                    a = at + step * width + lane
                    b = _base(source, based, a, a + group)
                    for j in range(wide.shape[0]):
                        x, w = source[first + j, a : a + group], wide[j, step]
                        for i in range(group):
                            w[i] = _shifted(x[i], b, i)
                _add_products(wide, lanes, lane)
        _fold_all(lanes, out[r])


@kernel
def _add_products(wide: Any, lanes: Any, lane: Any) -> None:
    """lanes[P, lane : lane + group] += products of two steps of vectors wide[V, 2, group]."""
    group = wide.shape[2]
    pair = 0
    for j in range(wide.shape[0]):
        x0, x1 = wide[j, 0], wide[j, 1]
        for k in range(j, wide.shape[0]):
            y0, y1 = wide[k, 0], wide[k, 1]
            total = lanes[pair, lane : lane + group]
            for i in range(group):
                total[i] = (total[i] + x0[i] * y0[i]) + x1[i] * y1[i]
            pair += 1


@kernel
def _fold_all(lanes: Any, out: Any) -> None:
    """out[P] = the sums of lanes[P, width]."""
    for pair in range(lanes.shape[0]):
        out[pair] = fold(lanes[pair])


@kernel
def _columns(rows: Any, n: Any, first: Any, based: Any, out: Any) -> None:
    """out[3, C] += products of two vectors, element by element; the first lies in column `first`."""
    x_row = rows.shape[0] - 2
    columns = out.shape[1]
    start = 0
    while start < n:
        column = (first + start) % columns
        end = min(n, start + columns - column)
        x, y, b = rows[x_row, start:end], rows[x_row + 1, start:end], _base(rows, based, start, end)
        xx, xy, yy = (out[0, column:], out[1, column:], out[2, column:])
        for i in range(x.shape[0]):
            p, q = _shifted(x[i], b, i), _shifted(y[i], b, i)
            xx[i] = xx[i] + p * p
            xy[i] = xy[i] + p * q
            yy[i] = yy[i] + q * q
        start = end
