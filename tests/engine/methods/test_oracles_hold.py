"""engine.merge against the float64 formulas, on tensors that no block size divides, in every dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import method_oracles as oracles
import numpy as np
import pytest
from method_oracles import Expected, Mask, Values

from bench.arrays import Array, decode, from_bf16, read_model, to_bf16
from bench.families import Family
from bench.torture import torture_family
from engine import merge, parse_recipe, randomness
from engine.recipe import Recipe

WEIGHTS = (0.7, 0.4)
SEED = 11
Formula = Callable[[Values, list[Values], list[Mask]], Expected]

METHODS: dict[str, tuple[dict[str, Any], Formula]] = {
    "linear": ({"density": None}, lambda b, xs, masks: oracles.linear([b, *xs], (0.25, *WEIGHTS))),
    "linear, not normalised": (
        {"density": None, "normalize": False},
        lambda b, xs, masks: oracles.linear([b, *xs], (0.25, *WEIGHTS), normalize=False),
    ),
    "slerp": ({"t": 0.3}, lambda b, xs, masks: oracles.slerp(b, xs[0], 0.3)),
    "task_arithmetic": (
        {"density": None, "lambda": 0.9},
        lambda b, xs, masks: oracles.task_arithmetic(b, xs, WEIGHTS, scale=0.9),
    ),
    "task_arithmetic, normalised": (
        {"density": None, "normalize": True},
        lambda b, xs, masks: oracles.task_arithmetic(b, xs, WEIGHTS, normalize=True),
    ),
    "ties": (
        {"density": (0.5, 0.13), "lambda": 1.1},
        lambda b, xs, masks: oracles.ties(b, xs, ((0.7, 0.5), (0.4, 0.13)), scale=1.1),
    ),
    "ties, not normalised": (
        {"density": (1.0, 0.02), "normalize": False},
        lambda b, xs, masks: oracles.ties(b, xs, ((0.7, 1.0), (0.4, 0.02)), normalize=False),
    ),
    "dare_linear": (
        {"density": (0.5, 0.8)},
        lambda b, xs, masks: oracles.summed(b, oracles.dare(b, xs, masks), WEIGHTS),
    ),
    "dare_linear, not rescaled": (
        {"density": (0.5, 0.8), "rescale": False, "normalize": True},
        lambda b, xs, masks: oracles.summed(b, oracles.dare(b, xs, masks, rescale=False), WEIGHTS, normalize=True),
    ),
    "dare_ties": (
        {"density": (0.5, 0.8), "normalize": True},
        lambda b, xs, masks: oracles.elected(b, _weighted(oracles.dare(b, xs, masks)), WEIGHTS),
    ),
    "passthrough": ({"scale": 0.3}, lambda b, xs, masks: oracles.passthrough(xs[0], scale=0.3)),
}
DTYPES = (None, "bfloat16", "float16", "float32", "float64")
CODES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return torture_family(tmp_path_factory.mktemp("torture"), mixed=True, giant=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
def test_a_merge_equals_the_formula_in_float64_rounded_once(
    method: str, dtype: str | None, family: Family, tmp_path: Path
) -> None:
    recipe = _recipe(method, dtype, family)
    merge(recipe, tmp_path / "out")
    merged = read_model(tmp_path / "out")
    sources = [read_model(model) for model in family.models]
    assert merged.keys() == sources[0].keys()
    for name, (stored_as, stored) in merged.items():
        inputs = [source[name] for source in sources]
        if inputs[0][0] in ("I64", "BOOL"):
            assert np.array_equal(stored, inputs[0][1])
            continue
        assert stored_as == (CODES[dtype] if dtype else inputs[0][0])
        base, *others = (_rounded(values, code, stored_as) for code, values in inputs)
        expected = METHODS[method][1](base, others, _masks(recipe, method, name, base.size))
        _assert_rounded(decode(stored, stored_as), expected, stored_as, name)


def test_the_mask_of_a_whole_tensor_is_the_documented_bits_element_by_element() -> None:
    key = randomness.stream_key(SEED, "tensor", 1)
    keys = randomness.block_keys(SEED, "tensor", (1,), 0)
    drawn = randomness.bits_tensor(0, 300, keys[0]).tolist()
    assert drawn == [randomness.bits_of(index, key) for index in range(300)]


def _recipe(method: str, dtype: str | None, family: Family) -> Recipe:
    settings = dict(METHODS[method][0])
    name = method.split(",")[0]
    densities = settings.pop("density", None)
    base, first, second = map(str, family.models)
    scale = settings.pop("scale", None)
    data: dict[str, Any] = {"merge_method": name, "parameters": settings}
    if dtype:
        data["dtype"] = dtype
    if name == "passthrough":
        return parse_recipe({**data, "models": [_model(first, scale=scale)]}, origin="test")
    data["base_model"] = base
    if name == "slerp":
        return parse_recipe({**data, "models": [_model(first)]}, origin="test")
    if name == "linear":
        del data["base_model"]
        models = [_model(path, weight=w) for path, w in zip((base, first, second), (0.25, *WEIGHTS), strict=True)]
    else:
        models = [_model(path, weight=w) for path, w in zip((first, second), WEIGHTS, strict=True)]
        for model, density in zip(models, densities or (), strict=False):
            model["parameters"]["density"] = density
    return parse_recipe({**data, "models": models, "seed": SEED}, origin="test")


def _model(path: str, **parameters: float) -> dict[str, Any]:
    return {"model": path, "parameters": parameters} if parameters else {"model": path}


def _masks(recipe: Recipe, method: str, tensor: str, elements: int) -> list[Mask]:
    """The documented masks of the two fine-tunes of a dare recipe: kept where the bits are below the threshold."""
    if not method.startswith("dare"):
        return []
    masks = []
    for source, density in zip(recipe.slices[0].sources, METHODS[method][0]["density"], strict=True):
        keys = randomness.block_keys(recipe.seed, tensor, (recipe.source_ids[source.model],), 0)
        bits = randomness.bits_tensor(0, elements, keys[0]).numpy()
        masks.append(bits < randomness.threshold(density))
    return masks


def _weighted(deltas: Sequence[Values]) -> list[Values]:
    return [weight * delta for weight, delta in zip(WEIGHTS, deltas, strict=True)]


def _rounded(stored: Array, code: str, dtype: str) -> Values:
    """A source's values rounded to the recipe's dtype, flat and in float64."""
    values = decode(np.asarray(stored), code).ravel()
    if dtype == "BF16":
        values = from_bf16(to_bf16(values.astype(np.float32)))
    elif dtype in ("F16", "F32"):
        values = values.astype(np.float16 if dtype == "F16" else np.float32)
    return values.astype(np.float64)


def _assert_rounded(got: Array, expected: Expected, dtype: str, name: str) -> None:
    """Each element within half a unit in its last place, and the arithmetic's own rounding, of the oracle."""
    digits = {"BF16": 8, "F16": 11, "F32": 24, "F64": 53}[dtype]
    least = {"BF16": 2.0**-126, "F16": 2.0**-14, "F32": 2.0**-126, "F64": 2.0**-1022}[dtype]
    exponent = np.floor(np.log2(np.maximum(np.abs(expected.value), least)))
    half_unit = 2.0 ** (exponent - digits)
    arithmetic = 8 * 2.0 ** (-53 if dtype == "F64" else -24) * expected.size
    error = np.abs(got.astype(np.float64).ravel() - expected.value)
    wrong = (error > half_unit * (1 + 1e-6) + arithmetic) & ~expected.contested
    places = np.flatnonzero(wrong)
    assert not places.size, (
        f"{name}: {places.size} of {wrong.size} elements, first at {places[0]}: got {got.ravel()[places[0]]}, "
        f"expected {expected.value[places[0]]}"
    )
    assert expected.contested.sum() <= 0.01 * expected.value.size
