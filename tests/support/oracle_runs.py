"""engine.merge against a float64 formula, tensor by tensor: what the oracle tests of all methods share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from method_oracles import Expected, Values

from bench.arrays import Array, decode, from_bf16, read_model, to_bf16
from bench.families import Family
from engine import merge
from engine.recipes.recipe import Recipe

DTYPES = (None, "bfloat16", "float16", "float32", "float64")
"""Of a recipe; None keeps each tensor's own."""
CODES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}
Formula = Callable[[str, Values, list[Values]], Expected]
"""(tensor's name, the base, the fine-tunes) → the oracle; all in float64 and in the tensor's shape."""


def assert_merge_is_formula(recipe: Recipe, family: Family, formula: Formula, out: Path) -> None:
    """Merge `recipe`, over the family's models, and compare every tensor with the formula, rounded once."""
    merge(recipe, out)
    merged = read_model(out)
    sources = [_read(model) for model in family.models]
    assert merged.keys() == sources[0].keys()
    for name, (stored_as, stored) in merged.items():
        inputs = [source[name] for source in sources]
        if inputs[0][0] in ("I64", "BOOL") or not stored.size:
            assert np.array_equal(stored, inputs[0][1])
            continue
        assert stored_as == (CODES[recipe.dtype] if recipe.dtype else inputs[0][0])
        base, *others = (_rounded(model, name, stored_as) for model in family.models)
        _assert_rounded(decode(stored, stored_as), formula(name, base, others), stored_as, name)


def source(path: str, **parameters: Any) -> dict[str, Any]:
    """An entry of a recipe's `models`."""
    return {"model": path, "parameters": parameters} if parameters else {"model": path}


@cache
def _read(model: Path) -> dict[str, tuple[str, Array]]:
    return read_model(model)


@cache
def _rounded(model: Path, name: str, dtype: str) -> Values:
    """A source's values rounded to the recipe's dtype, in float64; kept, because every method is tried on them."""
    code, stored = _read(model)[name]
    values = decode(np.asarray(stored), code)
    if dtype == "BF16":
        values = from_bf16(to_bf16(values.astype(np.float32)))
    elif dtype in ("F16", "F32"):
        values = values.astype(np.float16 if dtype == "F16" else np.float32)
    wide = np.array(values, np.float64)
    wide.flags.writeable = False
    return wide


def _assert_rounded(got: Array, expected: Expected, dtype: str, name: str) -> None:
    """Each element within half a unit in its last place, and the arithmetic's own rounding, of the oracle."""
    digits = {"BF16": 8, "F16": 11, "F32": 24, "F64": 53}[dtype]
    least = {"BF16": 2.0**-126, "F16": 2.0**-14, "F32": 2.0**-126, "F64": 2.0**-1022}[dtype]
    exponent = np.floor(np.log2(np.maximum(np.abs(expected.value), least)))
    half_unit = 2.0 ** (exponent - digits)
    arithmetic = 8 * 2.0 ** (-53 if dtype == "F64" else -24) * expected.size
    error = np.abs(got.astype(np.float64) - expected.value)
    wrong = ~(error <= half_unit * (1 + 1e-6) + arithmetic) & ~expected.contested  # NaN is wrong
    places = np.flatnonzero(wrong)
    assert not places.size, (
        f"{name}: {places.size} of {wrong.size} elements, first at {places[0]}: got {got.ravel()[places[0]]}, "
        f"expected {expected.value.ravel()[places[0]]}"
    )
    assert expected.contested.sum() <= 0.01 * expected.value.size
