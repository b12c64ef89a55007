"""From dot products to coefficients, where the method may be asked for it once per row or column of a tensor.

The scalar functions are plain Python, and `finish` runs them on the few numbers of a whole tensor; the loops apply
them, compiled, to the dot products of G rows or columns (a vocabulary has 150 000 rows). Roots, sines and arc cosines
come from the C library either way.
"""

from __future__ import annotations

import math
from typing import Any

from engine.kernels.cache import kernel

SHORTEST = 1e-7
"""mergekit's least length of a vector that nuslerp divides by."""
COLINEAR = 2.0**-23
"""1 − cos²θ up to which nuslerp interpolates linearly: mergekit asks for 1e-16, in float32, where this is next to 0."""
LEAST_PRODUCT = 1e-6
"""mergekit's least product of two lengths that model_stock divides by, and its least divisor of the ratio."""


def nuslerp(aa: float, ab: float, bb: float, t: float) -> tuple[float, float]:
    """Coefficients of a and b at t of the arc from a to b: sin((1−t)θ)/sin θ and sin(tθ)/sin θ, or 1−t and t.

    Written so that NaN, and a cosine that rounding carried beyond 1, count as colinear.
    """
    cosine = ab / (max(math.sqrt(aa), SHORTEST) * max(math.sqrt(bb), SHORTEST))
    if not 1.0 - cosine * cosine > COLINEAR:
        return 1.0 - t, t
    theta = math.acos(cosine)
    sine = math.sin(theta)
    return math.sin((1.0 - t) * theta) / sine, math.sin(t * theta) / sine


def stock_share(products: Any, models: int) -> float:
    """t/N of model_stock from the products[P] of N task vectors: cos θ / (1 + (N−1) cos θ), or 0 where that is x/0."""
    total = 0.0
    for j in range(models):
        at = j * models - j * (j - 1) // 2  # of (j, j) in the upper triangle
        for k in range(j + 1, models):
            other = k * models - k * (k - 1) // 2
            lengths = math.sqrt(products[at]) * math.sqrt(products[other])
            total += min(1.0, max(-1.0, products[at + k - j] / max(lengths, LEAST_PRODUCT)))
    cosine = total / (models * (models - 1) // 2)
    divisor = 1.0 + (models - 1) * cosine
    return 0.0 if abs(divisor) < LEAST_PRODUCT else cosine / divisor


_nuslerp, _stock_share = kernel(nuslerp), kernel(stock_share)


@kernel
def nuslerp_groups(products: Any, t: Any, out: Any) -> None:
    """out[G, 2] = `nuslerp` of products[G, 3]."""
    for g in range(out.shape[0]):
        out[g, 0], out[g, 1] = _nuslerp(products[g, 0], products[g, 1], products[g, 2], t)


@kernel
def stock_share_groups(products: Any, models: Any, out: Any) -> None:
    """out[G] = `stock_share` of products[G, P]."""
    for g in range(out.shape[0]):
        out[g] = _stock_share(products[g], models)
