"""On real checkpoints: recipes of every kind of space are planned, and equal models have equal hashes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from spaces import DENSITY, KINDS, QK, WEIGHT, bound

from bench.families import Shape, make_family
from search.evaluators.plans import Plans
from search.space import Space, check_tensors

LAYERS = 4
SHAPE = Shape(hidden=8, layers=LAYERS, mlp=8, heads=2, kv_heads=1, vocab=16)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A base and two fine-tunes."""
    return tuple(str(path) for path in make_family(tmp_path_factory.mktemp("family"), SHAPE, tunes=2).models)


@pytest.fixture(scope="module")
def plans() -> Iterator[Plans]:
    opened = Plans()
    yield opened
    opened.close()


def space_on(models: tuple[str, ...], entry: dict[str, Any]) -> Space:
    return bound(entry, base=models[0], sources=models[1:], layers=LAYERS)


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        (KINDS["global"], KINDS["module"]),
        (KINDS["module"], {"by": "patterns", "patterns": QK, "blocks": 2}),
        (KINDS["cubic3"], {"by": "layer_block", "blocks": LAYERS}),
        ({"by": "layer_block", "blocks": 2}, {"by": "layer_block", "blocks": LAYERS}),
    ],
)
def test_a_lifted_recipe_has_the_same_hash(
    models: tuple[str, ...], plans: Plans, coarse: dict[str, Any], fine: dict[str, Any]
) -> None:
    stages = [{"name": "coarse", **coarse}, {"name": "fine", **fine}]
    space = space_on(models, {"method": "ties", "parameters": {"weight": WEIGHT, "density": DENSITY}, "stages": stages})
    point = space.stages[0].from_unit(np.random.default_rng(3).random(len(space.stages[0].numeric)))
    lifted = space.recipe(1, space.lift(0, point))
    assert plans.hash_of(lifted) == plans.hash_of(space.recipe(0, point))


def test_axes_that_make_no_difference_make_none_to_the_hash(models: tuple[str, ...], plans: Plans) -> None:
    parameters = {"weight": WEIGHT, "density": DENSITY}
    entry = {"method": ["dare_linear", "linear"], "subset": True, "parameters": parameters, "stages": [{"name": "s"}]}
    space = space_on(models, entry)
    stage, name = space.stages[0], space.sources[1]
    alone = stage.start() | {f"use/{space.sources[0]}": False}
    # one source left out, or given weight 0: the other one's random mask is the same
    zero = stage.start() | {f"weight/{space.sources[0]}": 0.0}
    assert plans.hash_of(space.recipe(0, alone)) == plans.hash_of(space.recipe(0, zero))
    linear = alone | {"method": "linear", f"density/{name}": 0.25}
    assert plans.hash_of(space.recipe(0, linear)) == plans.hash_of(space.recipe(0, stage.canonical(linear)))
    check_tensors(space, plans.open(next(iter(plans.checkpoints))).tensors)


def test_layer_sequences_of_any_depth_are_planned(models: tuple[str, ...], plans: Plans) -> None:
    layers = {"places": 6, "fewest": 2, "scale": {"low": 0.5, "high": 1.5, "start": 0.75}}
    space = space_on(models, {"method": "passthrough", "layers": layers, "stages": [{"name": "s"}]})
    start = space.stages[0].start()
    for depth in (2, 4, 6):
        plan = plans(space.recipe(0, start | {"layers/depth": depth})).plan
        assert plan.config["num_hidden_layers"] == depth
    six = plans(space.recipe(0, start | {"layers/depth": 6})).plan
    scaled = {t.name for t in six.tensors if t.call is not None and t.call.sources["scale"] == (0.75,)}
    parts = ("self_attn.o_proj", "mlp.down_proj")
    assert scaled == {f"model.layers.{layer}.{part}.weight" for layer in (4, 5) for part in parts}
    parent = space.equivalent((0.0, 1.0))
    assert parent is not None
    whole = {"merge_method": "passthrough", "models": [{"model": models[2]}], "dtype": "float32"}
    assert plans.hash_of(space.recipe(0, parent)) == plans.hash_of(whole)


def test_the_ends_of_slerp_are_its_sources(models: tuple[str, ...], plans: Plans) -> None:
    t = {"low": 0, "high": 1, "start": 0.5}
    space = space_on(models, {"method": "slerp", "parameters": {"t": t}, "stages": [{"name": "s"}]})
    recipe = space.recipe(0, {"t": 0.5})
    assert (recipe["base_model"], len(recipe["models"])) == (models[1], 2)
    assert plans(recipe).plan.method.name == "slerp"
