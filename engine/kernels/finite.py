"""NaN, Inf and the largest number in stored values."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels.cache import kernel
from engine.kernels.codec import infinity, magnitude


@kernel
def largest_magnitude(row: Any) -> Any:
    """The largest `magnitude` of row[n], n ≥ 1."""
    largest = magnitude(row[0])
    for i in range(row.shape[0]):
        size = magnitude(row[i])
        largest = size if size > largest else largest
    return largest


@kernel
def count_nonfinite(row: Any) -> Any:
    """How many of row[n] are NaN or Inf."""
    count = np.int64(0)
    if row.shape[0] == 0:
        return count
    # a maximum of integers is several times as fast as a count, and mostly settles it
    if largest_magnitude(row) >= infinity(row[0]):
        for i in range(row.shape[0]):
            count += np.int64(1) if magnitude(row[i]) >= infinity(row[i]) else np.int64(0)
    return count


@kernel
def count_nonfinite_rows(rows: Any, n: Any) -> Any:
    """How many of the first n elements of rows[N, ≥ n] are NaN or Inf."""
    count = np.int64(0)
    for j in range(rows.shape[0]):
        count += count_nonfinite(rows[j, :n])
    return count
