"""How delta methods trim task vectors, in float64 numpy, written from the papers and reference/mergekit.md."""

from __future__ import annotations

import numpy as np
from method_oracles import Values, ranked


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


def rescaled(whole: Values, kept: Values) -> Values:
    """What was kept of a task vector, with the L1 norm of the whole; as it is where either norm is below 1e-7."""
    sums = float(np.abs(whole).sum()), float(np.abs(kept).sum())
    return kept * (sums[0] / sums[1]) if min(sums) >= 1e-7 else kept


def _only(delta: Values, places: np.ndarray) -> Values:
    """δ at these flat indices, else 0."""
    keep = np.zeros(delta.size, bool)
    keep[places] = True
    return np.where(keep.reshape(delta.shape), delta, 0.0)
