"""The merge formulas in float64 numpy, written from the papers and reference/mergekit.md: what engine.merge must equal.

Each oracle takes whole tensors and returns an `Expected`: the value, the sum of the magnitudes of what was added up
(rounding errors are relative to that), and where the answer hangs on a sign that a rounding error could turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]
CANCELLED = 2.0**-20  # a sum this small beside its terms may have either sign (DESIGN 2)


@dataclass(frozen=True)
class Expected:
    """One tensor's oracle: `value`, `size` = Σ|terms|, and `contested`, where an elected sign is a toss-up."""

    value: Values
    size: Values
    contested: Mask


def passthrough(source: Values, *, scale: float = 1.0) -> Expected:
    """scale · x."""
    return _settled(scale * source, np.abs(scale * source))


def linear(sources: Sequence[Values], weights: Sequence[float], *, normalize: bool = True) -> Expected:
    """Σ w_i x_i, over Σ w_i where normalised."""
    divisor = sum(weights) if normalize else 1.0
    terms = [weight / divisor * source for weight, source in zip(weights, sources, strict=True)]
    return _settled(sum(terms), sum(map(np.abs, terms)))


def slerp(base: Values, other: Values, t: float) -> Expected:
    """Shoemake (1985) on the flattened tensors, original norms kept; linear where |cos θ| > 0.9995, as in mergekit."""
    a, b = base.ravel(), other.ravel()
    cosine = float(np.dot(_unit(a), _unit(b)))
    if abs(cosine) > 0.9995:
        first, second = 1 - t, t
    else:
        angle = np.arccos(cosine)
        first, second = np.sin((1 - t) * angle) / np.sin(angle), np.sin(t * angle) / np.sin(angle)
    return _settled(first * base + second * other, np.abs(first * base) + np.abs(second * other))


def task_arithmetic(
    base: Values, sources: Sequence[Values], weights: Sequence[float], *, scale: float = 1.0, normalize: bool = False
) -> Expected:
    """b + λ Σ w_i δ_i, the sum over Σ w_i where normalised (Ilharco et al. 2023; divisor 1 below 1e-8)."""
    parts = [weight * (source - base) for weight, source in zip(weights, sources, strict=True)]
    return _summed(base, parts, scale / _divisor(weights, normalize=normalize))


def ties(
    base: Values,
    sources: Sequence[Values],
    settings: Sequence[tuple[float, float]],
    *,
    scale: float = 1.0,
    normalize: bool = True,
) -> Expected:
    """Trim, elect, disjoint mean (Yadav et al. 2023); `settings` are (weight, density) of each source."""
    parts = [
        weight * trimmed(source - base, density) for source, (weight, density) in zip(sources, settings, strict=True)
    ]
    return elected(base, parts, [weight for weight, _ in settings], scale=scale, normalize=normalize)


def dare(base: Values, sources: Sequence[Values], masks: Sequence[Mask], *, rescale: bool = True) -> list[Values]:
    """The masked task vectors (Yu et al. 2024), each brought back to its L1 norm where `rescale` (as in mergekit)."""
    deltas = []
    for source, mask in zip(sources, masks, strict=True):
        whole = source - base
        kept = np.where(mask, whole, 0.0)
        sums = float(np.abs(whole).sum()), float(np.abs(kept).sum())
        deltas.append(kept * (sums[0] / sums[1]) if rescale and min(sums) >= 1e-7 else kept)
    return deltas


def summed(
    base: Values, deltas: Sequence[Values], weights: Sequence[float], *, scale: float = 1.0, normalize: bool = False
) -> Expected:
    """b + λ Σ w_i δ_i for given task vectors."""
    parts = [weight * delta for weight, delta in zip(weights, deltas, strict=True)]
    return _summed(base, parts, scale / _divisor(weights, normalize=normalize))


def elected(
    base: Values,
    parts: Sequence[Values],
    weights: Sequence[float],
    *,
    scale: float = 1.0,
    normalize: bool = True,
    by_count: bool = False,
) -> Expected:
    """b + λ Σ agreeing parts ÷ Σ agreeing weights; the sign is that of Σ parts (or of Σ signs), 0 counting as +."""
    total = np.asarray(sum(map(np.sign, parts)) if by_count else sum(parts))
    sign = np.where(total >= 0, 1.0, -1.0)
    agrees = [np.sign(part) == sign for part in parts]
    mixed = sum(np.where(agree, part, 0.0) for agree, part in zip(agrees, parts, strict=True))
    if normalize:
        share = sum(np.where(agree, weight, 0.0) for agree, weight in zip(agrees, weights, strict=True))
        mixed = mixed / np.where(share == 0, 1.0, share)
    magnitude = sum(map(np.abs, parts))
    contested = (np.abs(total) <= CANCELLED * magnitude) & (magnitude > 0) & (not by_count)
    return Expected(base + scale * mixed, np.abs(base) + np.abs(scale * mixed) + np.abs(scale) * magnitude, contested)


def trimmed(delta: Values, density: float) -> Values:
    """δ where it is among the k = ⌊density · n⌋ largest magnitudes (at least 1), equal ones in order of index."""
    keep = np.zeros(delta.size, bool)
    keep[ranked(delta)[: kept_count(delta.size, density)]] = True
    return np.where(keep.reshape(delta.shape), delta, 0.0)


def ranked(delta: Values) -> NDArray[np.intp]:
    """Flat indices by falling |δ|, equal ones by rising index. Magnitudes are compared as float32 (docs of ties)."""
    return np.argsort(-np.abs(delta).astype(np.float32).ravel(), kind="stable")


def kept_count(elements: int, density: float) -> int:
    """⌊density · n⌋ as in mergekit, but at least one element unless density is 0 (mergekit fails there: D11)."""
    return 0 if density <= 0 else min(elements, max(1, int(density * elements)))


def _summed(base: Values, parts: Sequence[Values], factor: float) -> Expected:
    terms = [factor * part for part in parts]
    return _settled(base + sum(terms), np.abs(base) + sum(map(np.abs, terms)))


def _divisor(weights: Sequence[float], *, normalize: bool) -> float:
    total = sum(weights)
    return total if normalize and abs(total) >= 1e-8 else 1.0


def _unit(vector: Values) -> Values:
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm > 1e-8 else vector


def _settled(value: Any, size: Any) -> Expected:
    return Expected(np.asarray(value), np.asarray(size), np.zeros(np.shape(value), bool))
