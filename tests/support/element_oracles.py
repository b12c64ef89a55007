"""The element-wise formulas in float64 numpy, beside those of `method_oracles`, from mergekit.md and the papers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from method_oracles import CANCELLED, Expected, Mask, Values


def nearswap(base: Values, other: Values, t: float) -> Expected:
    """w = clamp(t / max(|b − x|, 1e-6), 0, 1); w x + (1 − w) b."""
    w = np.clip(t / np.maximum(np.abs(base - other), 1e-6), 0, 1)
    # w's own rounding error is relative to w, so it weighs as much as x and b together
    return Expected(w * other + (1 - w) * base, np.abs(base) + np.abs(other), np.zeros(base.shape, bool))


def ram(base: Values, sources: Sequence[Values], epsilon: float, factors: Sequence[float] | None = None) -> Expected:
    """b + the mean of the δ with |δ| > ε where several are, factor · δ where one is (arXiv 2601.13572)."""
    deltas = [source - base for source in sources]
    changed = [np.abs(delta) > epsilon for delta in deltas]
    changers = np.sum(changed, axis=0)
    mixed = np.zeros(base.shape)
    for delta, mask, factor in zip(deltas, changed, factors or [1.0] * len(deltas), strict=True):
        mixed += np.where(mask, delta * np.where(changers == 1, factor, 1 / np.maximum(changers, 1)), 0.0)
    size = np.abs(base) + np.sum(np.abs(deltas), axis=0) + np.max(np.abs(sources), axis=0)
    return Expected(base + mixed, size, np.any(_at_threshold(base, sources, epsilon), axis=0))


def ramplus_tl(base: Values, sources: Sequence[Values], *, r: float, alpha: float, epsilon: float) -> Expected:
    """RAM+ with ρ counted over this tensor: lone changes times 1 + r · clamp(shared / max(alone, ε), 0, α)."""
    changed = [np.abs(source - base) > epsilon for source in sources]
    changers = np.sum(changed, axis=0)
    factors = []
    for mask in changed:
        shared, alone = np.sum(mask & (changers > 1)), np.sum(mask & (changers == 1))
        factors.append(1 + r * min(max(shared / max(alone, epsilon), 0), alpha))
    return ram(base, sources, epsilon, factors)


def arcee_fusion(base: Values, other: Values) -> Expected:
    """x where |x − b| · KL(softmax x ‖ softmax b) of its row is at least median + 1.5 (q3 − q1) over the tensor."""
    importance, threshold = _fusion(base, other)
    value = np.where(importance >= threshold, other, base)
    return Expected(value, np.abs(value), at_fusion_threshold(base, other, within=1e-6))


def at_fusion_threshold(base: Values, other: Values, *, within: float) -> Mask:
    """Elements so near arcee_fusion's threshold, relatively, that a rounding error may decide; equal is no question."""
    importance, threshold = _fusion(base, other)
    near = np.abs(importance - threshold) <= within * np.abs(threshold)
    return near & (importance != threshold)


def _fusion(base: Values, other: Values) -> tuple[Values, float]:
    """The importance of every element, and the threshold."""
    p, q = _softmax(other) + 1e-8, _softmax(base) + 1e-8
    importance = np.abs(other - base) * np.sum(p * np.log(p / q), axis=-1, keepdims=True)
    ranked = np.sort(importance.ravel())
    first, median, third = (float(ranked[quarter * (ranked.size - 1) // 4]) for quarter in (1, 2, 3))
    return importance, median + 1.5 * (third - first)


def consensus_ta(
    base: Values, sources: Sequence[Values], weights: Sequence[float], shares: Sequence[float], *, k: int, scale: float
) -> Expected:
    """b + λ τ, τ = Σ w δ, where |δ_j| > s_j |τ − δ_j| for k sources at least (arXiv 2405.07813)."""
    deltas = [source - base for source in sources]
    total = sum(weight * delta for weight, delta in zip(weights, deltas, strict=True))
    own = [np.abs(delta) > share * np.abs(total - delta) for delta, share in zip(deltas, shares, strict=True)]
    gaps = [np.abs(delta) - share * np.abs(total - delta) for delta, share in zip(deltas, shares, strict=True)]
    terms = np.sum(np.abs(deltas), axis=0)
    near = [(gap != 0) & (np.abs(gap) <= CANCELLED * terms) for gap in gaps]
    kept = np.where(np.sum(own, axis=0) >= k, total, 0.0)
    size = np.abs(base) + np.sum(np.abs(sources), axis=0)
    return Expected(base + scale * kept, size, np.any(near, axis=0))


def emr(base: Values, sources: Sequence[Values], weights: Sequence[float], *, scale: float) -> Expected:
    """b + λ · the weighted mean of r_j M_j τ, τ being elected by the sum's sign (arXiv 2405.17461), r_j per tensor."""
    deltas = [source - base for source in sources]
    total = sum(deltas)
    sign = np.where(total > 0, 1.0, -1.0)
    agree = [delta * sign > 0 for delta in deltas]
    unified = sign * np.max([np.where(mask, np.abs(d), 0.0) for mask, d in zip(agree, deltas, strict=True)], axis=0)
    mixed = np.zeros(base.shape)
    for delta, mask, weight in zip(deltas, agree, weights, strict=True):
        masked = np.where(mask, unified, 0.0)
        norm = np.abs(masked).sum()
        mixed += weight / sum(weights) * masked * (np.abs(delta).sum() / norm if norm else 0.0)
    size = np.abs(base) + np.sum(np.abs(sources), axis=0) + np.abs(scale * mixed)
    contested = (total != 0) & (np.abs(total) <= CANCELLED * np.sum(np.abs(deltas), axis=0))
    return Expected(base + scale * mixed, size, contested)


def _softmax(values: Values) -> Values:
    rows = values if values.ndim else values.reshape(1)
    powers = np.exp(rows - rows.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).reshape(values.shape)


def _at_threshold(base: Values, sources: Sequence[Values], epsilon: float) -> list[Mask]:
    """Where |δ| is so near ε that δ's rounding to float32 may decide."""
    return [np.abs(np.abs(source - base) - epsilon) <= 2.0**-22 * (np.abs(source) + np.abs(base)) for source in sources]
