"""A LoRA's update of one run of a weight's elements: a product of two thin matrices, in one fixed order of summation.

Legend: W[rows, columns] the weight; left[rows, rank] and right[rank, columns] float32 (float64 for a float64 W).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels.cache import kernel
from engine.kernels.codec import decode, encode

TILE = 1024
"""Columns worked off together: a tile of `right` stays in the cache while all rows pass over it."""


@kernel
def add_low_rank(weights: Any, first: int, left: Any, right: Any, scale: Any) -> None:
    """weights[n] = round(W + scale · Σ_k left[i, k] · right[k, j]), k from 0 up, a product and a sum at a time.

    `weights` are stored elements of W in row-major order; the first stands in column `first` of the row that left[0]
    belongs to. No matrix product of a library: theirs sum in an order that depends on shapes and processors.
    """
    columns = right.shape[1]
    end = first + weights.shape[0]
    total = np.empty(TILE, right.dtype)
    for tile in range(0, columns, TILE):
        for i in range(left.shape[0]):
            row = i * columns
            start = max(row + tile, first)
            stop = min(row + min(tile + TILE, columns), end)
            if start >= stop:
                continue
            j, m = start - row, stop - start
            factor = left[i, 0]
            for c in range(m):
                total[c] = factor * right[0, j + c]
            _accumulate(total[:m], left[i], right, j)
            y = weights[start - first : stop - first]
            for c in range(m):
                y[c] = encode(decode(y[c]) + scale * total[c], y[c])


@kernel
def _accumulate(total: Any, factors: Any, right: Any, j: int) -> None:
    """total[c] += factors[k] · right[k, j + c] for k = 1, 2, … in this order; four k a pass spare loads and stores."""
    m, rank = total.shape[0], factors.shape[0]
    k = 1
    while k + 4 <= rank:
        f0, f1, f2, f3 = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
        r0, r1, r2, r3 = right[k, j : j + m], right[k + 1, j : j + m], right[k + 2, j : j + m], right[k + 3, j : j + m]
        for c in range(m):
            total[c] = (((total[c] + f0 * r0[c]) + f1 * r1[c]) + f2 * r2[c]) + f3 * r3[c]
        k += 4
    while k < rank:
        factor, row = factors[k], right[k, j : j + m]
        for c in range(m):
            total[c] = total[c] + factor * row[c]
        k += 1
