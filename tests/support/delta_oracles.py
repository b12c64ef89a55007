"""How delta methods trim task vectors, in float64 numpy, written from the papers and reference/mergekit.md."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from method_oracles import CANCELLED, Expected, Values, ranked


def breadcrumbs(delta: Values, density: float, gamma: float) -> Values:
    """δ without its ⌊γn⌋ largest magnitudes and all but ⌊density · n⌋ of the next largest (Davari & Belilovsky 2023).

    All of δ at density 1; fewer outliers are left out where too few would be left.
    """
    if density >= 1:
        return delta
    target = int(density * delta.size)
    outliers = int(gamma * delta.size)
    smallest = max(0, delta.size - target - outliers)
    rising = ranked(delta)[::-1]
    return _only(delta, rising[smallest : smallest + target])


def della_chances(delta: Values, density: float, epsilon: float) -> Values:
    """By what chance DELLA keeps each element (Deep et al. 2024): (density − ε) + 2 ε r, r its rank in the row, 0 to 1.

    As documented: rows are those of the last dimension, and elements of one bucket share the middle of its ranks.
    """
    if not 0 < density < 1 or delta.shape[-1:] in ((), (1,)):
        return np.full(delta.shape, min(density, 1.0))
    rows = []
    for row in delta.reshape(-1, delta.shape[-1]):
        octave = np.abs(row).astype(np.float32).view(np.int32) >> 16
        away = octave.max() - octave
        bucket = np.minimum(np.where(away < 1024, away, 768 + away // 4), 1791)
        _, which, counts = np.unique(-bucket, return_inverse=True, return_counts=True)
        middle = np.cumsum(counts) - counts + (counts - 1) / 2
        rows.append((density - epsilon) + 2 * epsilon * middle[which] / (row.size - 1))
    return np.array(rows).reshape(delta.shape)


def rescaled(whole: Values, kept: Values) -> Values:
    """What was kept of a task vector, with the L1 norm of the whole; as it is where either norm is below 1e-7."""
    sums = float(np.abs(whole).sum()), float(np.abs(kept).sum())
    return kept * (sums[0] / sums[1]) if min(sums) >= 1e-7 else kept


def sce(base: Values, sources: Sequence[Values], share: float, *, by_count: bool = False) -> Expected:
    """Select, calculate, erase (Wan et al. 2024): the `share` of the elements that vary at all which vary most."""
    deltas = [source - base for source in sources]
    near = np.zeros(base.shape, bool)
    if share < 1:
        # as documented: ranked as float32, M³ times as large, equal ones in order of index
        spread = sum((len(deltas) * delta - sum(deltas)) ** 2 for delta in deltas)
        single = np.asarray(spread).astype(np.float32)
        count = int(np.count_nonzero(single) * share)
        places = ranked(single)[:count]
        deltas = [_only(delta, places) for delta in deltas]
        if count:
            threshold = float(single.ravel()[places[-1]])
            near = (single != threshold) & (np.abs(single - threshold) <= 1e-6 * threshold)
    means = [float(np.mean(delta**2)) if delta.size else 0.0 for delta in deltas]
    whole = sum(means)
    weights = [mean / whole for mean in means] if abs(whole) >= 1e-6 else [1 / len(means)] * len(means)
    return _erased(base, deltas, weights, by_count=by_count, near=near)


def _erased(
    base: Values, deltas: Sequence[Values], weights: Sequence[float], *, by_count: bool, near: np.ndarray
) -> Expected:
    """b + Σ agreeing c δ ÷ max(Σ agreeing c, 1e-6); the unweighted δ elect."""
    total = np.asarray(sum(map(np.sign, deltas)) if by_count else sum(deltas))
    sign = np.where(total >= 0, 1.0, -1.0)
    agrees = [np.sign(delta) == sign for delta in deltas]
    mixed = sum(np.where(a, c * d, 0.0) for a, c, d in zip(agrees, weights, deltas, strict=True))
    share = sum(np.where(a, c, 0.0) for a, c in zip(agrees, weights, strict=True))
    moved = np.asarray(mixed / np.maximum(share, 1e-6))
    size = np.asarray(sum(map(np.abs, deltas)))
    contested = (np.abs(total) <= CANCELLED * size) & (total != 0) & (not by_count)  # δ that are opposite sum to 0
    return Expected(base + moved, np.abs(base) + np.abs(moved), contested | near)


def _only(delta: Values, places: np.ndarray) -> Values:
    """δ at these flat indices, else 0."""
    keep = np.zeros(delta.size, bool)
    keep[places] = True
    return np.where(keep.reshape(delta.shape), delta, 0.0)
