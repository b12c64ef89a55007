"""When two programs agree on a merge: the tolerances of DESIGN 8, and which elements of TIES may differ and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from method_oracles import kept_count
from numpy.typing import NDArray

from bench.arrays import decode, encode, read_model

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]
TOLERANCES = {"F32": (2e-6, 0.1), "F16": (2.0**-10, 0.01), "BF16": (2.0**-7, 0.01)}  # tol, c; the last is coarsest
LOOSE = {"karcher": 1e-5, "multislerp": 1e-5, "sce": 1e-5, "model_stock": 1e-5}
"""In float32 (DESIGN 8): what mergekit's own sums in float32 allow."""
CODES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
UNIT = {"F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
"""One in the last place, of 1."""


@dataclass(frozen=True)
class Loaded:
    """A model as {tensor: storage dtype} and {tensor: float64 values}."""

    dtypes: Mapping[str, str]
    values: Mapping[str, Values]


def load(directory: Path) -> Loaded:
    """Every tensor of a model directory."""
    tensors = read_model(directory)
    values = {name: np.asarray(decode(np.asarray(s), code), np.float64) for name, (code, s) in tensors.items()}
    return Loaded({name: code for name, (code, _) in tensors.items()}, values)


def with_models(recipe: Any, models: Mapping[str, Path]) -> Any:
    """A recipe whose short model names are replaced by their directories."""
    if isinstance(recipe, Mapping):
        return {
            key: str(models[value])
            if key in ("model", "base_model") and isinstance(value, str)
            else with_models(value, models)
            for key, value in recipe.items()
        }
    return [with_models(item, models) for item in recipe] if isinstance(recipe, list) else recipe


def coarsest(recipe: Mapping[str, Any], stored: str) -> str:
    """The coarser of a recipe's dtype and out_dtype; what is unset is as stored."""
    dtype = CODES.get(recipe.get("dtype", ""), stored)
    out = CODES.get(recipe.get("out_dtype", ""), dtype)
    return max(dtype, out, key=list(TOLERANCES).index)


def outside(ours: Values, theirs: Values, dtype: str, *, least: float = 0.0) -> Mask:
    """Where |a − b| > tol · max(|a|, c · max|a|), a being mergekit's; tol is that of `dtype`, but not below `least`."""
    tolerance, floor = TOLERANCES[dtype]
    tolerance = max(tolerance, least)
    scale = np.maximum(np.abs(theirs), floor * np.abs(theirs).max())
    return np.asarray(~(np.abs(ours - theirs) <= tolerance * scale))


def rounded_terms(ours: Values, theirs: Values, base: Values, sources: Sequence[Values], dtype: str) -> Mask:
    """Where |a − b| ≤ tol · (|b| + max|δ|): within the tolerance of what is added up, if not of what is left of it.

    mergekit rounds weights, δ, wδ, sums and quotients to `dtype` before the base is added, so its error is relative
    to the terms: where base and delta nearly cancel, and for a few elements in 10 000 on the edge of two roundings,
    DESIGN 8's rule asks more of it than it gives. (Ours is the formula rounded once: test_oracles_hold.py.)
    """
    terms = np.abs(base) + np.max([np.abs(source - base) for source in sources], axis=0)
    return np.asarray(np.abs(ours - theirs) <= TOLERANCES[dtype][0] * terms)


def explained(base: Values, sources: Sequence[Values], settings: Sequence[Mapping[str, float]], dtype: str) -> Mask:
    """Elements of a trimmed merge that may differ from mergekit's; `settings` are those of each source.

    In some source |δ| lies at a trimming threshold, within a rounding error of mergekit's arithmetic dtype; or the
    weighted deltas cancel to |Σwδ| ≤ 2^-7 · Σ|wδ|, so that rounding decides the elected sign.
    """
    known = np.zeros(base.shape, bool)
    terms = []
    for source, own in zip(sources, settings, strict=True):
        delta = source - base
        first, end = kept_ranks(delta.size, own.get("density", 1.0), own.get("gamma"))
        known |= at_ranks(np.abs(delta), (first, end), UNIT[dtype])
        order = np.argsort(np.abs(delta), axis=None, kind="stable")
        kept = np.zeros(delta.size)
        kept[order[first:end]] = delta.ravel()[order[first:end]]
        terms.append(own.get("weight", 1.0) * kept.reshape(delta.shape))
    return known | cancelled(terms)


def explained_selection(base: Values, sources: Sequence[Values], share: float) -> Mask:
    """Elements of SCE in float32 that may differ: the variance is that of the last selected, or the deltas cancel."""
    deltas = [source - base for source in sources]
    known = cancelled([float(np.mean(delta**2)) * delta for delta in deltas]) | cancelled(deltas)
    if share < 1:
        variance = np.var(deltas, axis=0)
        first = variance.size - int(np.count_nonzero(variance) * share)
        known |= at_ranks(variance, (first,), 1e-5)
    return known


def kept_ranks(elements: int, density: float, gamma: float | None) -> tuple[int, int]:
    """Ranks of |δ| [first, end), from the smallest, that a trim keeps: TIES' without gamma, Breadcrumbs' with it."""
    if density >= 1:
        return 0, elements
    kept = kept_count(elements, density) if gamma is None else int(density * elements)
    first = max(0, elements - kept - int((gamma or 0.0) * elements))
    return first, first + kept


def at_ranks(sizes: Values, ranks: Sequence[int], relative: float) -> Mask:
    """Elements whose size is within a rounding error of one on either side of a cut between ranks."""
    ordered = np.sort(sizes, axis=None)
    near = np.zeros(sizes.shape, bool)
    for rank in ranks:
        for place in {rank - 1, rank} if 0 < rank < ordered.size else ():
            near |= np.abs(sizes - ordered[place]) <= 2 * relative * ordered[place]
    return near


def cancelled(terms: Sequence[Values]) -> Mask:
    """Where terms cancel so far that rounding decides the sign of their sum."""
    size = np.sum([np.abs(term) for term in terms], axis=0)
    return np.asarray((np.abs(np.sum(terms, axis=0)) <= 2.0**-7 * size) & (size > 0))


def setting(value: Any, tensor: str, layers: int) -> float:
    """A recipe's setting for one tensor of a whole-model merge (reference/mergekit.md, section 2)."""
    if isinstance(value, list) and isinstance(value[0], Mapping):
        chosen = next(item["value"] for item in value if item.get("filter") is None or item["filter"] in tensor)
        return setting(chosen, tensor, layers)
    if not isinstance(value, list):
        return float(value)
    parts = tensor.split(".")
    layer = int(parts[parts.index("layers") + 1]) if "layers" in parts else 0
    return float(np.interp(layer / (layers - 1) * (len(value) - 1), range(len(value)), value))


def rounded(values: Values, dtype: str) -> Values:
    """Values as a recipe's dtype holds them."""
    return decode(encode(values.astype(np.float32), dtype), dtype).astype(np.float64)
