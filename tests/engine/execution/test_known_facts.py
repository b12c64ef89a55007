"""Facts that were measured for other recipes over the same sources give the bits of facts measured anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends import recipe_of
from method_blocks import CHOICES, call_of
from shared_families import shared_family

from engine import Recipe, make_plan, open_checkpoints, parse_recipe, recipe_to_dict
from engine.execution.execute import Work, execute
from engine.execution.known_facts import KnownFacts
from engine.methods import METHODS
from engine.methods.contract import Array, Facts, Stage
from engine.planning.plan import OutputTensor, Plan

APART = {"nuslerp": {"nuslerp_flatten": False}, "model_stock": {"filter_wise": True}}
MEASURING = ["breadcrumbs", "dare_ties", "della", "emr", "karcher", "model_stock", "multislerp", "nuslerp"]
MEASURING += ["ramplus_tl", "slerp", "ties"]


class Nowhere:
    """A sink that keeps nothing: digests tell."""

    def write(self, index: int, tensor: OutputTensor, block: int, data: Array) -> None:
        pass


@pytest.fixture(scope="module")
def models() -> tuple[Path, ...]:
    return shared_family("mixed", mixed=True).models


def drawn(method: str, models: tuple[Path, ...], draw: np.random.Generator) -> Recipe:
    """A recipe of the method with settings from `CHOICES`, for every model its own."""
    recipe: dict[str, Any] = recipe_to_dict(recipe_of(method, models))
    rows = METHODS[method].parameters
    for entry in recipe["models"]:
        for name in rows:
            if rows[name].scope == "model" and name in CHOICES:
                entry["parameters"][name] = float(draw.choice([v for v in CHOICES[name] if v > 0]))
    recipe["parameters"] = {
        name: float(draw.choice(CHOICES[name]))
        for name in rows
        if rows[name].scope == "global" and name in CHOICES and rows[name].default is None
    } | ({"rescale": True} if "rescale" in rows else {})
    return parse_recipe(recipe | {"parameters": recipe["parameters"] | APART.get(method, {})})


def plans(recipes: list[Recipe]) -> Iterator[tuple[Plan, Any]]:
    for recipe in recipes:
        checkpoints = open_checkpoints(recipe.opened)
        yield make_plan(recipe, checkpoints), checkpoints


@pytest.mark.parametrize("method", MEASURING)
def test_known_facts_give_the_same_bits_and_nothing_is_measured_twice(method: str, models: tuple[Path, ...]) -> None:
    draw = np.random.default_rng(len(method))
    recipes = [drawn(method, models, draw) for _ in range(4)]
    known = KnownFacts()
    for plan, sources in plans(recipes):
        fresh = execute(plan, sources, Nowhere(), work=Work(threads=1))
        assert execute(plan, sources, Nowhere(), work=Work(threads=2, known=known)).blocks == fresh.blocks

    def refuse(tensor: OutputTensor, stage: Stage, facts: Facts) -> Array:
        raise AssertionError(f"{stage.name} of {tensor.name} is measured again")

    for plan, sources in plans(recipes):
        for index in range(len(plan.tensors)):
            known.facts(plan, index, sources, refuse)
    assert known.nbytes > 0


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("nuslerp", [{}, {"nuslerp_flatten": False}, {"nuslerp_flatten": False, "nuslerp_row_wise": True}]),
        ("model_stock", [{"filter_wise": False}, {"filter_wise": True}]),
        ("ties", [{"rescale": False}, {"rescale": True}]),
    ],
)
def test_options_that_decide_what_is_measured_may_differ(
    method: str, options: list[dict[str, Any]], models: tuple[Path, ...]
) -> None:
    known = KnownFacts()
    recipe: dict[str, Any] = recipe_to_dict(recipe_of(method, models))
    for plan, sources in plans([parse_recipe(recipe | {"parameters": chosen}) for chosen in options]):
        fresh = execute(plan, sources, Nowhere(), work=Work(threads=1))
        assert execute(plan, sources, Nowhere(), work=Work(threads=1, known=known)).blocks == fresh.blocks


def test_what_no_other_call_can_use_is_known_by_name() -> None:
    draw = np.random.default_rng(0)
    measuring: dict[str, set[str]] = {}
    for name, method in METHODS.items():
        for _ in range(20):
            call = call_of(method, 3 + 3 * method.importance, (4, 64), draw)
            measuring.setdefault(name, set()).update(s.reuse for s in method.stages(call) if s.measure)
    assert {name for name, reuse in measuring.items() if "never" in reuse} == {"arcee_fusion", "sce"}
    relatives = {"breadcrumbs_ties", "dare_linear", "della_linear"}  # they trim as those that are tried above
    assert {name for name, reuse in measuring.items() if reuse and "never" not in reuse} == {*MEASURING} | relatives


def test_what_was_not_asked_for_longest_goes_first(models: tuple[Path, ...]) -> None:
    known = KnownFacts(most_bytes=2000)
    for plan, sources in plans([recipe_of("slerp", models), recipe_of("ties", models)]):
        execute(plan, sources, Nowhere(), work=Work(threads=1, known=known))
    assert 0 < known.nbytes <= 2000
