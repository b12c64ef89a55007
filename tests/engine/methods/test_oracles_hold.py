"""engine.merge against the float64 formulas, on tensors that no block size divides, in every dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import method_oracles as oracles
import pytest
from method_oracles import Expected, Mask, Values
from oracle_runs import DTYPES, assert_merge_is_formula, source

from bench.arrays import Array
from bench.families import Family
from engine import parse_recipe, randomness
from engine.recipes.recipe import Recipe

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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
def test_a_merge_equals_the_formula_in_float64_rounded_once(
    method: str, dtype: str | None, family: Family, tmp_path: Path
) -> None:
    recipe = _recipe(method, dtype, family)

    def formula(tensor: str, base: Values, others: list[Values]) -> Expected:
        return METHODS[method][1](base, others, _masks(recipe, method, tensor, base))

    assert_merge_is_formula(recipe, family, formula, tmp_path / "out")


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
        return parse_recipe({**data, "models": [source(first, scale=scale)]}, origin="test")
    data["base_model"] = base
    if name == "slerp":
        return parse_recipe({**data, "models": [source(first)]}, origin="test")
    if name == "linear":
        del data["base_model"]
        models = [source(path, weight=w) for path, w in zip((base, first, second), (0.25, *WEIGHTS), strict=True)]
    else:
        models = [source(path, weight=w) for path, w in zip((first, second), WEIGHTS, strict=True)]
        for model, density in zip(models, densities or (), strict=False):
            model["parameters"]["density"] = density
    return parse_recipe({**data, "models": models, "seed": SEED}, origin="test")


def _masks(recipe: Recipe, method: str, tensor: str, base: Values) -> list[Mask]:
    """The documented masks of the two fine-tunes of a dare recipe: kept where the bits are below the threshold."""
    if not method.startswith("dare"):
        return []
    masks = []
    for tune, density in zip(recipe.slices[0].sources, METHODS[method][0]["density"], strict=True):
        bits = _bits(recipe.seed, tensor, recipe.source_ids[tune.model], base.size)
        masks.append(bits.reshape(base.shape) < randomness.threshold(density))
    return masks


@cache
def _bits(seed: int, tensor: str, source_id: int, elements: int) -> Array:
    """The same for every dtype and density."""
    keys = randomness.block_keys(seed, tensor, (source_id,), 0)
    bits: Array = randomness.bits_tensor(0, elements, keys[0]).numpy()
    return bits


def _weighted(deltas: Sequence[Values]) -> list[Values]:
    return [weight * delta for weight, delta in zip(WEIGHTS, deltas, strict=True)]
