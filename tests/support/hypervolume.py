"""How good a front is as a whole: the volume that it dominates."""

from __future__ import annotations

import numpy as np

from search.judging.fronts import Floats


def hypervolume(values_CK: Floats, reference_K: Floats) -> float:
    """The volume between the reference point and the points' front, exactly: slices along the last objective."""
    inside = values_CK[(values_CK > reference_K).all(axis=1)]
    if not len(inside):
        return 0.0
    if inside.shape[1] == 1:
        return float(inside.max() - reference_K[0])
    inside = inside[np.argsort(-inside[:, -1], kind="stable")]
    floors = np.append(inside[1:, -1], reference_K[-1])
    volume = 0.0
    for count, (height, floor) in enumerate(zip(inside[:, -1], floors, strict=True), start=1):
        if height > floor:
            volume += (height - floor) * hypervolume(inside[:count, :-1], reference_K[:-1])
    return float(volume)
