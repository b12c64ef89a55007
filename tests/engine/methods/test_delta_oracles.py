"""The delta methods against their float64 formulas: every way to trim, with and without an elected sign."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import delta_oracles as trims
import method_oracles as oracles
import numpy as np
import pytest
from method_oracles import Expected, Values
from oracle_runs import DTYPES, assert_merge_is_formula, source

from bench.arrays import decode, encode, read_model, write_file
from bench.families import Family
from engine import parse_recipe, randomness
from engine.recipes.recipe import Recipe

SEED = 7
WEIGHTS = (0.7, -0.4)
Settings = Mapping[str, tuple[float, float]]
Trim = Callable[[Values, Mapping[str, float]], Values]
"""(task vector, settings of its source) → what is kept of it."""

TRIMS: dict[str, Trim] = {
    "ties": lambda delta, own: oracles.trimmed(delta, own["density"]),
    "breadcrumbs": lambda delta, own: trims.breadcrumbs(delta, own["density"], own["gamma"]),
}
CASES: dict[str, tuple[Settings, Mapping[str, Any]]] = {
    "ties, by count": ({"density": (0.5, 0.3)}, {"elect_by_count": True, "normalize": False}),
    "ties, rescaled": ({"density": (0.5, 1.0)}, {"rescale": True, "lambda": 0.8}),
    "breadcrumbs": ({"density": (0.5, 0.9), "gamma": (0.01, 0.2)}, {}),
    "breadcrumbs, normalised": ({"density": (0.9, 1.0), "gamma": (0.0, 0.5)}, {"normalize": True, "rescale": True}),
    "breadcrumbs_ties": ({"density": (0.5, 0.03), "gamma": (0.01, 0.2)}, {"lambda": 1.1}),
    "della": ({"density": (0.5, 0.8), "epsilon": (0.3, 0.15)}, {"lambda": 1.1}),
    "della, by count": ({"density": (0.3, 1.0), "epsilon": (0.05, 0.15)}, {"elect_by_count": True, "normalize": False}),
    "della_linear": ({"density": (0.5, 0.8), "epsilon": (0.3, 0.15)}, {}),
    "della_linear, not rescaled": (
        {"density": (0.4, 0.0), "epsilon": (0.3, 0.15)},
        {"rescale": False, "normalize": True},
    ),
    "sce": ({}, {}),
    "sce, selected": ({}, {"select_topk": 0.5}),
    "sce, by count": ({}, {"select_topk": 0.07, "elect_by_count": True}),
    "breadcrumbs_ties, by count": ({"density": (0.9, 0.6), "gamma": (0.2, 0.1)}, {"elect_by_count": True}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_a_merge_equals_the_formula_in_float64_rounded_once(
    case: str, dtype: str | None, small_family: Family, tmp_path: Path
) -> None:
    recipe = _recipe(case, dtype, small_family)

    def formula(tensor: str, base: Values, tunes: list[Values]) -> Expected:
        return _formula(case, base, tunes, recipe, tensor)

    assert_merge_is_formula(recipe, small_family, formula, tmp_path / "out")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_sce_weighs_fine_tunes_that_are_far_from_the_base_by_their_size(
    share: float, dtype: str, small_family: Family, tmp_path: Path
) -> None:
    far = Family(
        small_family.base, tuple(_scaled(small_family.tunes[place], tmp_path, 1.5 - place) for place in (0, 1))
    )
    models = [source(str(tune)) for tune in far.tunes]
    data = {"merge_method": "sce", "base_model": str(far.base), "models": models, "dtype": dtype}
    recipe = parse_recipe(data | {"parameters": {"select_topk": share}}, origin="test")
    weighted: list[bool] = []

    def formula(tensor: str, base: Values, tunes: list[Values]) -> Expected:
        weighted.append(sum(float(np.mean((tune - base) ** 2)) for tune in tunes if tune.size) > 1e-6)
        return trims.sce(base, tunes, share)

    assert_merge_is_formula(recipe, far, formula, tmp_path / "out")
    assert sum(weighted) > len(weighted) / 2


def _scaled(model: Path, folder: Path, factor: float) -> Path:
    """A copy of a model with every value multiplied."""
    made = folder / f"times-{factor}"
    made.mkdir()
    (made / "config.json").write_bytes((model / "config.json").read_bytes())
    scaled = {}
    for name, (code, stored) in read_model(model).items():
        values = decode(np.asarray(stored), code) * np.float32(factor)
        scaled[name] = (code, encode(np.asarray(values), code).reshape(stored.shape))
    write_file(made / "model.safetensors", scaled)
    return made


def _recipe(case: str, dtype: str | None, family: Family) -> Recipe:
    own, whole = CASES[case]
    base, *tunes = map(str, family.models)
    weights: list[dict[str, float]] = [{} if case.startswith("sce") else {"weight": weight} for weight in WEIGHTS]
    models = [
        source(tune, **weight, **{name: values[place] for name, values in own.items()})
        for place, (tune, weight) in enumerate(zip(tunes, weights, strict=True))
    ]
    data = {"merge_method": case.split(",")[0], "base_model": base, "models": models, "seed": SEED}
    return parse_recipe(data | {"parameters": whole} | ({"dtype": dtype} if dtype else {}), origin="test")


def _formula(case: str, base: Values, tunes: list[Values], recipe: Recipe, tensor: str) -> Expected:
    own, whole = CASES[case]
    method = case.split(",")[0]
    by_count = whole.get("elect_by_count", False)
    if method == "sce":
        return trims.sce(base, tunes, whole.get("select_topk", 1.0), by_count=by_count)
    kept = []
    for place, tune in enumerate(tunes):
        settings = {name: values[place] for name, values in own.items()}
        if method.startswith("della"):
            bits = _bits(recipe, tensor, place, base)
            chances = trims.della_chances(tune - base, settings["density"], settings["epsilon"])
            delta = np.where(bits < np.ceil(chances * 2**24), tune - base, 0.0)
        else:
            delta = TRIMS[method.removesuffix("_ties")](tune - base, settings)
        rescale = whole.get("rescale", method.startswith("della"))
        kept.append(trims.rescaled(tune - base, delta) if rescale else delta)
    scale, normalize = whole.get("lambda", 1.0), whole.get("normalize", method in ("ties", "della"))
    if method in ("breadcrumbs", "della_linear"):
        return oracles.summed(base, kept, WEIGHTS, scale=scale, normalize=normalize)
    parts = [weight * delta for weight, delta in zip(WEIGHTS, kept, strict=True)]
    return oracles.elected(base, parts, WEIGHTS, scale=scale, normalize=normalize, by_count=by_count)


def _bits(recipe: Recipe, tensor: str, place: int, base: Values) -> Values:
    """The documented random bits of one source, in the tensor's shape."""
    source_id = recipe.source_ids[recipe.slices[0].sources[place].model]
    keys = randomness.block_keys(SEED, tensor, (source_id,), 0)
    return randomness.bits_tensor(0, base.size, keys[0]).numpy().reshape(base.shape)
