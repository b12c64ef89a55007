"""The spherical methods' formulas in float64 numpy, on the vectors themselves: no Gram matrix, no coefficients.

Written from the papers and reference/mergekit.md (3.2). `Expected.size` counts each term of out = Σ c_i x_i as large as
its inputs, and twice, because the merge adds up differences from one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from method_oracles import Expected, Values

COLINEAR = 2.0**-23  # 1 − cos²θ up to which nuslerp is linear (its docstring says why)


def nuslerp(
    sources: Sequence[Values], weights: Sequence[float], base: Values | None = None, *, axis: int | None = None
) -> Expected:
    """Of two tensors as flat vectors (axis None), or of all vectors along an axis; with a base, of task vectors."""
    first, second = _moved(sources, base)
    total = weights[0] + weights[1]
    t = 0.5 if abs(total) < 1e-6 else weights[1] / total
    axis = 0 if first.ndim == 1 and axis else axis

    def dot(left: Values, right: Values) -> Any:
        return np.sum(left * right, axis=axis, keepdims=True)

    lengths = [np.maximum(np.sqrt(dot(x, x)), 1e-7) for x in (first, second)]
    cosine = dot(first / lengths[0], second / lengths[1])
    linear = 1 - np.clip(cosine, -1, 1) ** 2 <= COLINEAR
    theta = np.arccos(np.where(linear, 0.0, cosine))
    shares = [
        np.where(linear, plain, np.sin(plain * theta) / np.where(linear, 1.0, np.sin(theta))) for plain in (1 - t, t)
    ]
    return _combined(shares[0] * first + shares[1] * second, shares, sources, base)


def multislerp(
    sources: Sequence[Values],
    weights: Sequence[float],
    base: Values | None = None,
    *,
    normalize: bool = True,
    eps: float = 1e-8,
) -> Expected:
    """The barycentre in the tangent space at the weighted mean direction, taken back to the sphere (Goddard)."""
    vectors = _moved(sources, base)
    shares = [weight / sum(weights) if normalize else weight for weight in weights]
    lengths = [_length(vector) for vector in vectors]
    units = [vector / (length + eps) for vector, length in zip(vectors, lengths, strict=True)]
    mean = _sum(shares, units)
    if not _length(mean):
        return _combined(_sum(shares, vectors), shares, sources, base)
    nearly_cancelled = sum(map(abs, shares)) / _length(mean)  # the square of its length is a difference of squares
    mean = mean / _length(mean)
    tangents = [unit - np.sum(unit * mean) * mean for unit in units]
    tangent = _sum(shares, tangents)
    angle = _length(tangent) + eps
    average = sum(share * length for share, length in zip(shares, lengths, strict=True))
    value = (mean * np.cos(angle) + tangent * (np.sin(angle) / angle)) * average
    terms = [average * nearly_cancelled**3 / length if length else 0.0 for length in lengths]
    return _combined(value, terms, sources, base)


def karcher(sources: Sequence[Values], *, max_iter: int = 10, tol: float = 1e-5) -> Expected:
    """The Karcher mean of the directions by steps along the mean of their logarithms, times the mean length."""
    lengths = [_length(source) for source in sources]
    units = [source / length for source, length in zip(sources, lengths, strict=True) if length > 0]
    average = sum(lengths) / len(lengths)
    if not units:
        return _combined(np.zeros_like(sources[0]), [0.0] * len(sources), sources, None)
    mean = sum(units) / len(units)
    mean = units[0] if _length(mean) < tol else mean / _length(mean)
    for _ in range(max_iter):
        step = sum(_logarithm(mean, unit, tol) for unit in units) / len(units)
        length = _length(step)
        if length < tol:
            break
        mean = np.cos(length) * mean + np.sin(length) * step / length
        mean = mean / _length(mean)
    return _combined(average * mean, [average / length if length else 0.0 for length in lengths], sources, None)


def model_stock(base: Values, sources: Sequence[Values], *, axis: int | None = None) -> Expected:
    """t · mean + (1 − t) · base, t from the mean cosine of all pairs of task vectors (Jang et al. 2024)."""
    deltas = [source - base for source in sources]
    count = len(deltas)
    cosines = [
        np.clip(
            np.sum(one * other, axis=axis, keepdims=True) / np.maximum(_norm(one, axis) * _norm(other, axis), 1e-6),
            -1,
            1,
        )
        for place, one in enumerate(deltas)
        for other in deltas[place + 1 :]
    ]
    cosine = sum(cosines) / len(cosines)
    divisor = 1 + (count - 1) * cosine
    t = np.where(np.abs(divisor) < 1e-6, 0.0, count * cosine / np.where(np.abs(divisor) < 1e-6, 1.0, divisor))
    return _combined(t * (sum(sources) / count - base), [t / count] * count, sources, base)


def _logarithm(mean: Values, unit: Values, tol: float) -> Values:
    cosine = float(np.clip(np.sum(mean * unit), -1, 1))
    theta = float(np.arccos(cosine))
    if theta <= tol or np.pi - theta < 1e-6:
        return np.zeros_like(mean)
    return theta / np.sin(theta) * (unit - cosine * mean)


def _moved(sources: Sequence[Values], base: Values | None) -> list[Values]:
    return [source if base is None else source - base for source in sources]


def _sum(shares: Sequence[float], vectors: Sequence[Values]) -> Values:
    total: Values = sum(share * vector for share, vector in zip(shares, vectors, strict=True))  # type: ignore[assignment]
    return total


def _length(vector: Values) -> float:
    return float(np.sqrt(np.sum(vector * vector)))


def _norm(vector: Values, axis: int | None) -> Any:
    return np.sqrt(np.sum(vector * vector, axis=axis, keepdims=True))


def _combined(value: Values, shares: Sequence[Any], sources: Sequence[Values], base: Values | None) -> Expected:
    """`value`, the base added, and the size of what a merge adds up to get there."""
    origin = sources[0] if base is None else base
    size = np.abs(origin) + sum(
        np.abs(share) * (np.abs(source) + np.abs(origin)) for share, source in zip(shares, sources, strict=True)
    )
    return Expected(
        value if base is None else value + base, np.broadcast_to(size, value.shape), np.zeros(value.shape, bool)
    )
