"""The two fused element-wise passes that serve every method: decode, combine, round, in one sweep.

Legend: N sources, rows[N, ≥ n] stored values of one block (uint16 = bf16, int16 = f16, float32), out[n] rounded values.
A few sources are combined in registers (`fused`). More are worked off in chunks of `CHUNK` elements that stay in the
first-level cache; within a chunk every loop runs over elements, so that the compiler vectorises it for any number of
sources. The order of operations is that of the torch definitions in `engine.methods`, which tests hold these loops to,
bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels import fused
from engine.kernels.cache import kernel
from engine.kernels.codec import decode, encode
from engine.kernels.trim import trimmed

CHUNK = 2048
ALL, SUM, COUNT = 0, 1, 2
"""Which deltas are summed: all, or those that agree with the sign of their sum, or with that of most of them."""


def scratch(sources: int) -> Any:
    """Working memory for one thread: float32[sources + 4, CHUNK]."""
    return np.empty((sources + 4, CHUNK), np.float32)


@kernel
def convert(source: Any, out: Any) -> None:
    """out[n] = source[n], rounded to the format of `out` (through float32, as torch does)."""
    for i in range(out.shape[0]):
        out[i] = encode(decode(source[i]), out[i])


def linear(rows: Any, coefficients: Any, out: Any, work: Any) -> None:
    """out = Σ_j coefficients[j] · rows[j], summed in order of j in float32; `rows` may be a `files.Stream`."""
    if fused.serves(rows, out):
        fused.linear(rows, coefficients, out)
    else:
        linear_in_chunks(rows, coefficients, out, work)


@kernel
def linear_in_chunks(rows: Any, coefficients: Any, out: Any, work: Any) -> None:
    """`linear` for any number of rows; work: float32[≥ 1, CHUNK]."""
    n = out.shape[0]
    total = work[0]
    for start in range(0, n, CHUNK):
        m = min(CHUNK, n - start)
        y = out[start : start + m]
        for j in range(rows.shape[0]):
            x = rows[j, start : start + m]
            c = coefficients[j]
            if j == 0:
                for i in range(m):
                    total[i] = c * decode(x[i])
            else:
                for i in range(m):
                    total[i] = total[i] + c * decode(x[i])
        for i in range(m):
            y[i] = encode(total[i], y[i])


@kernel
def sum_deltas(work: Any, sources: Any, m: Any) -> None:
    """work[sources, :m] = Σ_j work[j, :m], in order of j."""
    total = work[sources]
    for j in range(sources):
        row = work[j]
        if j == 0:
            for i in range(m):
                total[i] = row[i]
        else:
            for i in range(m):
                total[i] = total[i] + row[i]


@kernel
def sum_signs(work: Any, sources: Any, m: Any) -> None:
    """work[sources, :m] = Σ_j sign(work[j, :m])."""
    total = work[sources]
    for j in range(sources):
        row = work[j]
        for i in range(m):
            sign = np.float32(row[i] > np.float32(0)) - np.float32(row[i] < np.float32(0))
            total[i] = sign if j == 0 else total[i] + sign


@kernel
def sum_agreeing(work: Any, m: Any, weights: Any, divide: Any, scale: Any) -> None:
    """work[M, :m] = scale · Σ_j agreeing work[j] (÷ Σ_j agreeing weights[j]); the sign of work[M] is elected.

    TIES-Merging (Yadav et al. 2023), steps elect and disjoint merge, with mergekit's weights: 0 elects +, and a delta
    of 0 agrees with nobody. divide = (on, least, instead): a divisor must be larger than `least` in magnitude, and is
    `instead` where it is not. `&` and `|` instead of `and`: no branches.
    """
    normalize, least, instead = divide
    sources = weights.shape[0]
    total, mixed, share = work[sources], work[sources + 1], work[sources + 2]
    for i in range(m):
        mixed[i] = np.float32(0)
        share[i] = np.float32(0)
    for j in range(sources):
        row = work[j]
        w = weights[j]
        for i in range(m):
            up = total[i] >= np.float32(0)
            agrees = (up & (row[i] > np.float32(0))) | ((not up) & (row[i] < np.float32(0)))
            mixed[i] = mixed[i] + (row[i] if agrees else np.float32(0))
            share[i] = share[i] + (w if agrees else np.float32(0))
    if normalize:
        for i in range(m):
            total[i] = scale * (mixed[i] / (share[i] if abs(share[i]) > least else instead))
    else:
        for i in range(m):
            total[i] = scale * mixed[i]


def delta(rows: Any, keep: Any, coefficients: Any, elect: Any, weights: Any, out: Any, work: Any) -> None:
    """out = rows[0] + (sum or elected sum) of coefficients[j] · trimmed (rows[j+1] − rows[0]).

    Args:
        rows: [1 + M, ≥ n], the base first; or a `files.Stream` of them, where `fused` serves this call.
        keep: which elements (`kernels.trim.Keep`).
        coefficients: float32[M].
        elect: (ALL, SUM or COUNT, normalize, scale float32).
        weights: float32[M], what an agreeing source adds to the divisor.
        out: [n].
        work: float32[M + 4, CHUNK].
    """
    way, normalize, scale = elect
    if way != COUNT and fused.serves(rows, out, keep.kind):
        fused.delta(rows, keep, coefficients, (way == SUM, normalize, scale), weights, out)
    else:
        delta_in_chunks(rows, keep, coefficients, elect, weights, out, work)


@kernel
def delta_in_chunks(rows: Any, keep: Any, coefficients: Any, elect: Any, weights: Any, out: Any, work: Any) -> None:
    """`delta` for any number of sources, any way to keep and to elect."""
    n = out.shape[0]
    sources = rows.shape[0] - 1
    for start in range(0, n, CHUNK):
        m = min(CHUNK, n - start)
        b = rows[0, start : start + m]
        y = out[start : start + m]
        for j in range(sources):
            trimmed(rows[j + 1, start : start + m], b, coefficients[j], keep, (j, start), work[j, :m])
        sum_or_elect(work, m, elect, weights)
        add_to_base(b, work[sources], y)


@kernel
def sum_or_elect(work: Any, m: Any, elect: Any, weights: Any) -> None:
    """work[M, :m] = the sum of work[:M, :m], or what those that agree with the elected sign come to."""
    way, normalize, scale = elect
    sources = weights.shape[0]
    if way == COUNT:
        sum_signs(work, sources, m)
    else:
        sum_deltas(work, sources, m)
    if way != ALL:
        sum_agreeing(work, m, weights, (normalize, np.float32(0), np.float32(1)), scale)


@kernel
def add_to_base(b: Any, total: Any, out: Any) -> None:
    """out[n] = b + total, rounded."""
    for i in range(out.shape[0]):
        out[i] = encode(decode(b[i]) + total[i], out[i])
