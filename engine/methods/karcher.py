"""karcher: the Karcher (Riemannian) mean of the models' directions on the unit sphere, at their mean length.

    u ← exp_u( 1/N · Σ_i log_u(x_i / ‖x_i‖) )  until the step is below tol,    out = mean_i ‖x_i‖ · u

log_u(y) = θ/sin θ · (y − cos θ · u) with cos θ = u·y (arXiv 2603.04972; Karcher 1977). It starts from the normalised
mean, or from the first direction where that mean is not longer than tol, and takes at most max_iter steps. Every
iterate is a combination of the inputs, so all of it runs on the N×N matrix of their cosines, and the tensors are
touched twice: for that matrix, and to combine them at the end.

Tensors of zeros have no direction and count with length 0, as in mergekit. Deviations from it: a base_model that is not
listed is not averaged in (there it becomes a member unasked); short tensors (‖x‖ ≤ tol) are not taken for zeros; a
direction opposite to u (θ within 1e-6 of π), whose logarithm does not exist, is passed over, where rounding decides
there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.methods import spherical
from engine.methods.contract import Call, Method, Parameter, parameters

OPPOSITE = 1e-6


def _coefficients(call: Call, products: list[float]) -> list[float]:
    gram = spherical.symmetric(products, spherical.vectors_of(call))
    lengths = [math.sqrt(row[i]) for i, row in enumerate(gram)]
    used = [i for i, length in enumerate(lengths) if length > 0]
    if not used:
        return [0.0] * len(lengths)
    cosines = [[gram[i][j] / (lengths[i] * lengths[j]) for j in used] for i in used]
    mean = karcher_mean(cosines, max_iter=int(call.options["max_iter"]), tol=call.options["tol"])
    length = sum(lengths) / len(lengths)
    coefficients = [0.0] * len(lengths)
    for i, share in zip(used, mean, strict=True):
        coefficients[i] = length * share / lengths[i]
    return coefficients


def karcher_mean(cosines: Sequence[Sequence[float]], *, max_iter: int, tol: float) -> list[float]:
    """The mean direction u = Σ a_i u_i of unit vectors with these dot products, as a[N]."""
    count = len(cosines)
    mean = [1.0 / count] * count
    length = spherical.length_of(mean, cosines)
    mean = [1.0] + [0.0] * (count - 1) if not length > tol else [a / length for a in mean]
    for _ in range(max_iter):
        step = _tangent(mean, cosines, tol)
        length = spherical.length_of(step, cosines)
        if not length > tol:
            break
        mean = [math.cos(length) * a + math.sin(length) / length * b for a, b in zip(mean, step, strict=True)]
        length = spherical.length_of(mean, cosines)
        mean = [a / length for a in mean] if length > tol else mean
    return mean


def _tangent(mean: Sequence[float], cosines: Sequence[Sequence[float]], tol: float) -> list[float]:
    """1/N · Σ_i log_u(u_i), as coefficients of the u_i."""
    tangent = [0.0] * len(mean)
    for i, row in enumerate(cosines):
        cosine = max(-1.0, min(1.0, sum(a * dot for a, dot in zip(mean, row, strict=True))))
        theta = math.acos(cosine)
        if theta <= tol or math.pi - theta < OPPOSITE:
            continue
        factor = theta / math.sin(theta) / len(mean)
        tangent = [b - factor * cosine * a for a, b in zip(mean, tangent, strict=True)]
        tangent[i] += factor
    return tangent


METHOD = Method(
    name="karcher",
    summary="mean direction on the sphere, mean length",
    merge=spherical.merge,
    kernel=spherical.kernel,
    parameters=parameters(
        Parameter("max_iter", "global", default=10.0, low=0, whole=True),
        Parameter("tol", "global", default=1e-5, low=0),
    ),
    stages=lambda call: (spherical.whole(_coefficients),),
    streams=lambda call: True,
)
