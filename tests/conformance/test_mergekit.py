"""The same recipe through mergekit 0.1.5 and through mergefleet, tensor by tensor (DESIGN 8)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conformance import (
    CODES,
    LOOSE,
    Loaded,
    Mask,
    Values,
    coarsest,
    explained,
    explained_selection,
    load,
    outside,
    rounded,
    rounded_terms,
    setting,
)
from conformance_families import SHAPE, Case, Merges, Models
from element_oracles import at_fusion_threshold

FEW = 2e-4  # share of elements that may agree only relative to their terms, in bfloat16 arithmetic
CASES = yaml.safe_load((Path(__file__).parent / "cases.yaml").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_recipe_means_what_it_means_in_mergekit(case: Case, merges: Merges) -> None:
    assert case["name"] not in merges.errors, merges.errors[case["name"]]
    theirs_at, ours_at = merges.mergekit[case["name"]], merges.mergefleet(case)
    theirs, ours = load(theirs_at), load(ours_at)
    assert ours.dtypes == theirs.dtypes
    assert {n: v.shape for n, v in ours.values.items()} == {n: v.shape for n, v in theirs.values.items()}
    configs = [json.loads((at / "config.json").read_text()) for at in (ours_at, theirs_at)]
    text = [config.get("text_config", {}) | config for config in configs]
    assert len({(c["num_hidden_layers"], c["vocab_size"], c["tie_word_embeddings"]) for c in text}) == 1
    COMPARE[case["compare"]](case, ours, theirs, merges.families[case["family"]])


def _exact(case: Case, ours: Loaded, theirs: Loaded, models: Models) -> None:
    for name, values in ours.values.items():
        assert np.array_equal(values, theirs.values[name]), name


def _close(case: Case, ours: Loaded, theirs: Loaded, models: Models) -> None:
    dtype = _coarsest(case, models)
    least = LOOSE.get(case["recipe"]["merge_method"], 0.0)
    inputs = _inputs(case, models) if "base_model" in case["recipe"] else []
    lost = 0
    for name, values in ours.values.items():
        wrong = outside(values, theirs.values[name], dtype, least=least)
        if wrong.any() and inputs:
            base, *sources = (model[name] for model in inputs)
            close = rounded_terms(values, theirs.values[name], base, sources, dtype)
            lost, wrong = lost + int((wrong & close).sum()), wrong & ~close
        assert not wrong.any(), f"{name}: {int(wrong.sum())} of {wrong.size} outside, {_worst(values, theirs, name)}"
    print(f"{case['name']}: {lost} elements only within tolerance of their terms")
    assert lost <= FEW * sum(values.size for values in ours.values.values())


def _elected(case: Case, ours: Loaded, theirs: Loaded, models: Models) -> None:
    recipe, dtype = case["recipe"], _coarsest(case, models)
    arithmetic = CODES.get(recipe.get("dtype", ""), _stored(models))
    inputs = _inputs(case, models)
    unexplained = differing = lost = 0
    for name, values in ours.values.items():
        wrong = outside(values, theirs.values[name], dtype, least=LOOSE.get(recipe["merge_method"], 0.0))
        base, *sources = (rounded(model[name], arithmetic) for model in inputs)
        unlike = wrong & ~_explained(recipe, name, base, sources, arithmetic)
        close = rounded_terms(values, theirs.values[name], base, sources, dtype)
        differing, lost = differing + int(wrong.sum()), lost + int((unlike & close).sum())
        unexplained += int((unlike & ~close).sum())
        if len(sources) == 1:
            assert np.count_nonzero(values != base) == np.count_nonzero(theirs.values[name] != base), name
    total = sum(values.size for values in ours.values.values())
    print(f"{case['name']}: {differing / total:.3%} differ, explained; {lost} elements only within that of their terms")
    assert unexplained == 0, f"{unexplained} of {differing} differing elements are unexplained"
    assert lost <= FEW * total


def _random(case: Case, ours: Loaded, theirs: Loaded, models: Models) -> None:
    recipe = case["recipe"]
    inputs = _inputs(case, models)
    base, *sources = (np.concatenate([model[name].ravel() for name in ours.values]) for model in inputs)
    densities = [model["parameters"]["density"] for model in recipe["models"]]
    moved = np.all([source != base for source in sources], axis=0)
    expected = 1 - math.prod(1 - density for density in densities)
    deviation = math.sqrt(expected * (1 - expected) / moved.sum())
    changes = []
    for made in (ours, theirs):
        change = np.concatenate([made.values[name].ravel() for name in ours.values]) - base
        assert abs(np.mean(change[moved] != 0) - expected) < 4 * deviation
        changes.append(np.abs(change).sum())
    assert changes[0] == pytest.approx(changes[1], rel=0.03)
    rescaled = recipe.get("parameters", {}).get("rescale", True)
    if len(sources) == 1 and (rescaled or recipe["merge_method"] == "dare_linear"):  # DELLA keeps more of large ones
        kept = 1.0 if rescaled else densities[0]
        whole = recipe["models"][0]["parameters"]["weight"] * np.abs(sources[0] - base).sum()
        assert changes[0] == pytest.approx(kept * whole, rel=0.01 if kept == 1.0 else 0.03)


def _fused(case: Case, ours: Loaded, theirs: Loaded, models: Models) -> None:
    base, other = _inputs({**case, "recipe": {**case["recipe"], "models": case["recipe"]["models"][-1:]}}, models)
    differing = 0
    for name, values in ours.values.items():
        wrong = outside(values, theirs.values[name], "F32")
        assert not (wrong & ~at_fusion_threshold(base[name], other[name], within=1e-3)).any(), name
        differing += int(wrong.sum())
    print(f"{case['name']}: {differing} elements differ, all of them at the threshold")


COMPARE: dict[str, Callable[[Case, Loaded, Loaded, Models], None]] = {
    "exact": _exact,
    "close": _close,
    "elected": _elected,
    "fused": _fused,
    "random": _random,
}


def _coarsest(case: Case, models: Models) -> str:
    return coarsest(case["recipe"], _stored(models))


def _stored(models: Models) -> str:
    return next(iter(load(models["a"]).dtypes.values()))


def _inputs(case: Case, models: Models) -> list[Mapping[str, Values]]:
    """Values of the recipe's base and of its models, in the recipe's order."""
    recipe = case["recipe"]
    named = recipe.get("models") or recipe["slices"][0]["sources"]
    return [load(models[name]).values for name in (recipe["base_model"], *(model["model"] for model in named))]


def _explained(recipe: Case, tensor: str, base: Values, sources: list[Values], arithmetic: str) -> Mask:
    """Where there is a known reason for another value of one tensor."""
    shared = recipe.get("parameters", {})
    if recipe["merge_method"] == "sce":
        return explained_selection(base, sources, shared.get("select_topk", 1.0))
    names = ("weight", "density", "gamma")
    given = [shared | model.get("parameters", {}) for model in recipe["models"]]
    settings = [{n: setting(own[n], tensor, SHAPE.layers) for n in names if n in own} for own in given]
    if "breadcrumbs" in recipe["merge_method"]:
        settings = [{"gamma": 0.01} | own for own in settings]
    return explained(base, sources, settings, arithmetic)


def _worst(values: Any, theirs: Loaded, name: str) -> str:
    place = np.unravel_index(np.argmax(np.abs(values - theirs.values[name])), values.shape)
    return f"worst at {[int(i) for i in place]}: ours {values[place]}, mergekit's {theirs.values[name][place]}"
