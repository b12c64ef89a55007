"""A plan by the outline of another recipe is the plan that the recipe has by itself, hashes and warnings included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends import recipe_of
from method_blocks import CHOICES
from shared_families import shared_family

from engine import make_plan, open_checkpoints, parse_recipe, recipe_to_dict
from engine.digest import tensor_recipes
from engine.errors import RecipeError
from engine.methods import METHODS
from engine.models.checkpoint import Checkpoint
from engine.planning.outline import Outline, take_apart
from engine.recipes.recipe import ModelRef

VALUES = CHOICES | {
    "density": [0.3, 0.4, 0.5],
    "weight": [0.3, 0.7, 1.0, 1.3],
}  # that go with each other and the defaults
FILTERS = ("self_attn", "re:(up|down)_proj", None)
OTHERS = sorted(METHODS.keys() - {"passthrough"})


@pytest.fixture(scope="module")
def models() -> tuple[Path, ...]:
    return shared_family("mixed", mixed=True).models


def drawn(method: str, models: tuple[Path, ...], form: int, draw: np.random.Generator) -> dict[str, Any]:
    """A recipe whose model settings are numbers (form 0), gradients (1) or choices by name (2), of drawn values."""
    data: dict[str, Any] = recipe_to_dict(recipe_of(method, models))
    rows = METHODS[method].parameters

    def value(name: str) -> float:
        parameter = rows[name]
        choices = [v for v in VALUES.get(name, ()) if parameter.low <= v <= parameter.high and v]
        return float(draw.choice(choices or [float(parameter.default or 1.0)]))

    def setting(name: str) -> Any:
        gradient = [value(name), value(name)]
        if form < 2 or isinstance(rows[name].default, bool):
            return gradient if form else value(name)
        return [{"value": v, "filter": f} for f, v in zip(FILTERS, (gradient, value(name), value(name)), strict=True)]

    switches = {name for name, row in rows.items() if isinstance(row.default, bool)}
    for entry in data["models"]:
        names = entry.get("parameters", {}).keys() & rows.keys() - switches
        entry["parameters"] = entry.get("parameters", {}) | {name: setting(name) for name in sorted(names)}
    shared = {name: value(name) for name, row in rows.items() if row.scope == "global" and name not in switches}
    return data | {"parameters": {name: int(v) if rows[name].whole else v for name, v in shared.items()}}


@pytest.mark.parametrize("form", [0, 2])
@pytest.mark.parametrize("method", OTHERS)
def test_other_numbers_give_the_plan_that_they_have_by_themselves(
    method: str, form: int, models: tuple[Path, ...]
) -> None:
    draw = np.random.default_rng([form, len(method)])
    first, *others = (drawn(method, models, form, draw) for _ in range(4))
    outline, checkpoints = outline_of(first)
    assert outline is not None
    made = set()
    for data in others:
        other = parse_recipe(data)
        structure, numbers = take_apart(data)
        assert structure == take_apart(first)[0]
        whole = make_plan(other, checkpoints)
        found = outline.plan(data, numbers)
        assert found is not None
        plan, hashes = found
        assert plan == whole
        assert plan.digest == whole.digest
        assert hashes == tensor_recipes(whole, checkpoints)
        made.add(tuple(hashes))
    assert len(made) == len({str(data) for data in others})


def outline_of(data: dict[str, Any]) -> tuple[Outline | None, dict[ModelRef, Checkpoint]]:
    recipe = parse_recipe(data)
    checkpoints = open_checkpoints(recipe.opened)
    return Outline.of(data, make_plan(recipe, checkpoints), checkpoints, origin=recipe.origin), checkpoints


def test_numbers_that_decide_more_than_a_call_have_no_plan_by_an_outline(models: tuple[Path, ...]) -> None:
    data = drawn("ties", models, 0, np.random.default_rng(0))
    outline, _ = outline_of(data)
    assert outline is not None
    dropped = with_weight(data, 0.0)
    assert outline.plan(dropped, take_apart(dropped)[1]) is None
    assert outline_of(dropped)[0] is None
    assert outline_of({"merge_method": "passthrough", "models": [{"model": str(models[0])}]})[0] is None


SWITCHED = {"parameters": {"normalize": 0.5}}


@pytest.mark.parametrize(
    ("method", "wrong"),
    [("ties", 1e30), ("ties", float("nan")), ("ties", []), ("ties", [0.5, float("inf")]), ("ties", SWITCHED)],
)
def test_what_a_method_does_not_take_is_left_to_the_whole_plan_which_refuses_it(
    method: str, wrong: Any, models: tuple[Path, ...]
) -> None:
    data = drawn(method, models, int(isinstance(wrong, list)), np.random.default_rng(0))
    good = data | {"parameters": {"normalize": 1}} if wrong is SWITCHED else data
    outline, checkpoints = outline_of(good)
    assert outline is not None
    bad = good | wrong if wrong is SWITCHED else with_weight(good, wrong)
    structure, numbers = take_apart(bad)
    assert structure == take_apart(good)[0]
    assert outline.plan(bad, numbers) is None
    with pytest.raises(RecipeError):
        make_plan(parse_recipe(bad), checkpoints)


def test_a_number_beyond_which_a_plan_warns_is_left_to_the_whole_plan(models: tuple[Path, ...]) -> None:
    data = {"merge_method": "slerp", "base_model": str(models[0]), "models": [{"model": str(models[1])}]}
    inside, outside = (data | {"parameters": {"t": t}} for t in (0.5, 1.5))
    outline, _ = outline_of(inside)
    assert outline is not None
    assert outline.plan(outside, take_apart(outside)[1]) is None
    assert outline_of(outside)[0] is None


def test_text_that_is_a_number_and_switches_stay_as_they_are(models: tuple[Path, ...]) -> None:
    def data(weight: float) -> dict[str, Any]:
        first, *others = recipe_to_dict(recipe_of("ties", models))["models"]
        rest = {"weight": weight, "density": "0.5"}
        told = [first | {"parameters": {"weight": "3e-1"}}, *(other | {"parameters": rest} for other in others)]
        return {"merge_method": "ties", "base_model": str(models[0]), "models": told} | {
            "parameters": {"normalize": [True, False], "density": [0.25, 0.5]}
        }

    outline, checkpoints = outline_of(data(0.4))
    assert outline is not None
    found = outline.plan(data(0.7), take_apart(data(0.7))[1])
    assert found is not None
    assert found[0] == make_plan(parse_recipe(data(0.7)), checkpoints)


def with_weight(data: dict[str, Any], weight: float) -> dict[str, Any]:
    """The recipe with that weight for its first source."""
    first, *others = data["models"]
    return data | {"models": [first | {"parameters": first["parameters"] | {"weight": weight}}, *others]}


def test_a_structure_is_all_of_a_recipe_but_the_numbers_of_its_settings() -> None:
    def of(**change: Any) -> str:
        entry = {"model": "a", "parameters": {"weight": [{"value": [0.1, 2], "filter": "mlp"}, {"value": 1}]}}
        return take_apart({"merge_method": "linear", "models": [entry], "seed": 1} | change)[0]

    def weighted(weight: Any) -> dict[str, Any]:
        return {"models": [{"model": "a", "parameters": {"weight": weight}}]}

    assert of() == of(**weighted([{"value": [5, 6, 7], "filter": "mlp"}, {"value": 0.5}]))
    assert of(**weighted(1)) == of(**weighted(0.25))
    for change in (
        weighted([{"value": [5, 6], "filter": "attn"}, {"value": 0.5}]),
        weighted([{"value": [5, 6]}]),
        weighted(True),
        {"seed": 2},
        {"merge_method": "ties"},
        {"models": [{"model": "b", "parameters": {"weight": 1}}]},
        {"parameters": {"lambda": 1}},
        {"slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}]}]},
    ):
        assert of(**change) != of()
