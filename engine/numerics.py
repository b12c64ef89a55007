"""The one place where tensor data is summed, and the scalar arithmetic around it.

A sum's bits depend on its order, so the order is fixed: `LANES` float64 lanes per block (element i goes to lane
i mod LANES, in order of i; a short block is padded with zeros), then halves are folded onto each other, then block
sums are added in block order. `kernels.measure` does the same in compiled loops; a test holds the two together.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1 << 18
"""Elements of a block: the unit of arithmetic, random bits, partial sums and digests."""
LANES = 1024
ROW_LANES = 64


def lane_sum(values: Tensor) -> Tensor:
    """Σ values[n ≤ BLOCK] as a 0-d float64 tensor, in lanes and folds."""
    import torch

    rows = -(-values.numel() // LANES)
    padded = torch.zeros(rows * LANES, dtype=torch.float64, device=values.device)
    padded[: values.numel()] = values.to(torch.float64)
    lanes = torch.zeros(LANES, dtype=torch.float64, device=values.device)
    for row in padded.view(rows, LANES):
        lanes = lanes + row
    while lanes.numel() > 1:
        half = lanes.numel() // 2
        lanes = lanes[:half] + lanes[half:]
    return lanes[0]


def row_sums(values: Tensor) -> Tensor:
    """Σ over columns of values[R, C]: float64[R], in `ROW_LANES` lanes per row, then folds."""
    import torch

    rows, columns = values.shape
    steps = -(-columns // ROW_LANES)
    padded = torch.zeros(rows, steps * ROW_LANES, dtype=torch.float64, device=values.device)
    padded[:, :columns] = values.to(torch.float64)
    lanes = torch.zeros(rows, ROW_LANES, dtype=torch.float64, device=values.device)
    for step in padded.view(rows, steps, ROW_LANES).unbind(1):
        lanes = lanes + step
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


def twice_midranks(keys: Tensor, bins: int) -> Tensor:
    """Of integer keys[R, C] in [0, bins): twice the rank within the row, from 0; equal keys share the middle of theirs.

    That is 2 · (how many are smaller) + (how many are equal) − 1, an integer from 0 to 2 · (C − 1).
    """
    import torch

    rows, columns = keys.shape
    row = torch.arange(rows, device=keys.device)[:, None]
    apart = (keys.to(torch.int64) + row * bins).view(-1)  # one sorted list, in which no two rows overlap
    ordered = torch.sort(apart).values
    smaller, not_larger = (torch.searchsorted(ordered, apart, right=right) for right in (False, True))
    return (smaller + not_larger - 1).view(rows, columns) - 2 * columns * row


def fold_blocks(partials: NDArray[np.float64]) -> list[float]:
    """Σ over blocks of partials[blocks, K], added in block order: K floats."""
    totals = [0.0] * partials.shape[1]
    for row in partials.tolist():
        totals = [total + value for total, value in zip(totals, row, strict=True)]
    return totals


def slerp_coefficients(aa: float, ab: float, bb: float, t: float) -> tuple[float, float]:
    """Coefficients (of a, of b) of the spherical interpolation at t, from the Gram matrix of a and b.

    Shoemake (1985): sin((1−t)θ)/sin θ and sin(tθ)/sin θ, cos θ = a·b / (‖a‖‖b‖); where |cos θ| > 0.9995 (nearly
    colinear: sin θ cancels) linear interpolation. As in mergekit, a vector shorter than 1e-8 is not normalised.
    """
    norm_a, norm_b = math.sqrt(aa), math.sqrt(bb)
    cosine = ab / ((norm_a if norm_a > 1e-8 else 1.0) * (norm_b if norm_b > 1e-8 else 1.0))
    if not abs(cosine) <= 0.9995:
        return 1.0 - t, t
    theta = math.acos(cosine)
    return math.sin((1.0 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)


def kth_from_above(counts: NDArray[np.int64], k: int) -> tuple[int, int]:
    """(bin, count in higher bins): the bin of counts[bins] in which the k-th largest element lies, k ≥ 1."""
    from_above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_above, k))
    above = int(from_above[place - 1]) if place else 0
    return len(counts) - 1 - place, above
