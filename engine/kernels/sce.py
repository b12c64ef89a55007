"""SCE's passes: the variance between task vectors, the squares of the selected elements, and the merge.

Legend: M sources besides the base (row 0), n elements of a block. A cut is (on, threshold bits int64, last int64 (index
within the block)): what it counts off is selected (`engine.methods.magnitude`), all elements where it is not on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels.cache import kernel
from engine.kernels.codec import decode, float_bits
from engine.kernels.combine import CHUNK, COUNT, add_to_base, sum_agreeing, sum_deltas, sum_signs
from engine.kernels.measure import LANES, fold
from engine.kernels.trim import weighted_delta, within

LEAST_VARIANCE = np.float32(2.0**-126)


@kernel
def variances(rows: Any, n: Any, out: Any) -> None:
    """out[1, :n] = the variance of every element, out[0, :n] = 0: rows of scores for `measure`'s histograms."""
    wide = np.empty((2, CHUNK), np.float64)
    for start in range(0, n, CHUNK):
        m = min(CHUNK, n - start)
        variance(rows, start, m, wide, out[1, start : start + m])
        out[0, start : start + m] = np.float32(0)


@kernel
def variance(rows: Any, start: Any, m: Any, wide: Any, out: Any) -> None:
    """out[m] = Σ_j (M · δ_j − Σ_i δ_i)² = M³ · variance, in float64, rounded to float32; 0 where subnormal."""
    sources = rows.shape[0] - 1
    total, squares = wide[0], wide[1]
    b = rows[0, start : start + m]
    for j in range(sources):
        add_delta(rows[j + 1, start : start + m], b, j == 0, total)
    for j in range(sources):
        add_square(rows[j + 1, start : start + m], b, np.float64(sources), j == 0, total, squares)
    for i in range(m):
        single = np.float32(squares[i])
        out[i] = single if single >= LEAST_VARIANCE else np.float32(0)


@kernel
def add_delta(x: Any, b: Any, first: Any, total: Any) -> None:
    """total[n] (+)= x − b."""
    for i in range(x.shape[0]):
        delta = np.float64(decode(x[i]) - decode(b[i]))
        total[i] = delta if first else total[i] + delta


@kernel
def add_square(x: Any, b: Any, count: Any, first: Any, total: Any, squares: Any) -> None:
    """squares[n] (+)= (count · (x − b) − total)²."""
    for i in range(x.shape[0]):
        away = count * np.float64(decode(x[i]) - decode(b[i])) - total[i]
        squares[i] = away * away if first else squares[i] + away * away


@kernel
def select(rows: Any, start: Any, m: Any, cut: Any, wide: Any, work: Any) -> None:
    """work[j, :m] = δ_j where the element is selected, else 0; work[M] is used on the way."""
    on, threshold, last = cut
    b = rows[0, start : start + m]
    sources = rows.shape[0] - 1
    spread = work[sources]
    if on:
        variance(rows, start, m, wide, spread)
    for j in range(sources):
        x, delta = rows[j + 1, start : start + m], work[j]
        if on:
            selected_delta(x, b, spread, np.int32(threshold), within(last, start, m), delta)
        else:
            weighted_delta(x, b, np.float32(1), delta)


@kernel
def selected_delta(x: Any, b: Any, spread: Any, threshold: Any, last: Any, out: Any) -> None:
    """out[n] = x − b where spread is above the threshold, or equals it at an index ≤ last; else 0."""
    for i in range(x.shape[0]):
        bits = np.int32(float_bits(spread[i]))
        keep = (bits > threshold) | ((bits == threshold) & (np.int32(i) <= last))
        out[i] = decode(x[i]) - decode(b[i]) if keep else np.float32(0)


@kernel
def squares(rows: Any, n: Any, cut: Any, out: Any, work: Any) -> None:
    """out[M] = Σ δ_j² over the selected elements, float64."""
    sources = rows.shape[0] - 1
    lanes = np.zeros((sources, LANES), np.float64)
    wide = np.empty((2, LANES), np.float64)
    for start in range(0, n, LANES):
        m = min(LANES, n - start)
        select(rows, start, m, cut, wide, work)
        for j in range(sources):
            lane, delta = lanes[j], work[j]
            for i in range(m):
                lane[i] = lane[i] + np.float64(delta[i]) * np.float64(delta[i])
    for j in range(sources):
        out[j] = fold(lanes[j])


@kernel
def merge(rows: Any, cut: Any, way: Any, coefficients: Any, least: Any, out: Any, work: Any) -> None:
    """out = b + Σ_j agreeing c_j δ_j ÷ Σ_j agreeing c_j over the selected elements; the δ_j elect the sign.

    Args:
        rows: [1 + M, ≥ n], the base first.
        cut: which elements are selected.
        way: SUM or COUNT (`combine`).
        coefficients: float32[M].
        least: divisor, float32.
        out: [n].
        work: float32[M + 4, CHUNK].
    """
    n = out.shape[0]
    sources = rows.shape[0] - 1
    wide = np.empty((2, CHUNK), np.float64)
    for start in range(0, n, CHUNK):
        m = min(CHUNK, n - start)
        select(rows, start, m, cut, wide, work)
        if way == COUNT:
            sum_signs(work, sources, m)
        else:
            sum_deltas(work, sources, m)
        for j in range(sources):
            c, delta = coefficients[j], work[j]
            for i in range(m):
                delta[i] = c * delta[i]
        sum_agreeing(work, m, coefficients, (True, least, least), np.float32(1))
        add_to_base(rows[0, start : start + m], work[sources], out[start : start + m])
