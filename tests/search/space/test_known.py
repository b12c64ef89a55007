"""Baselines that are points of a space are known to be, and only those: their recipes come to the same model."""

from __future__ import annotations

from typing import Any

import pytest
from simulated import campaign_data
from spaces import DENSITY, WEIGHT, bound

from search.baselines import Baseline, make_baselines
from search.campaign_file import parse_campaign
from search.space import Space, make_space

T = {"low": 0, "high": 1, "start": 0.25}
STAGE = [{"name": "s"}]


def known(space: dict[str, Any], *, sources: int = 2, **changes: Any) -> tuple[Space, dict[str, Any]]:
    """The space, and label → point of every baseline that is one."""
    names = [f"m/{letter}" for letter in "abc"[:sources]]
    data = campaign_data(sources=names, seed=0, space={"stages": STAGE} | space, **changes)
    campaign = parse_campaign(data, origin="c.yml")
    made = make_space(campaign, layers=4)
    points = {b.label: made.point_of(b.recipe, b.weights) for b in make_baselines(campaign)}
    return made, {label: point for label, point in points.items() if point is not None}


def test_task_arithmetic_knows_base_parents_average_and_scales() -> None:
    _, points = known({"parameters": {"weight": WEIGHT}}, sources=3)
    scales = {f"task arithmetic {scale}" for scale in ("0.3", "0.5", "0.7", "0.85", "1")}
    assert {*points} == {"base", "parent a", "parent b", "parent c", "uniform", *scales}
    assert points["parent b"] == {"weight/a": 0, "weight/b": 1, "weight/c": 0}


def test_linear_knows_what_sums_to_one() -> None:
    _, points = known({"method": "linear", "parameters": {"weight": WEIGHT}})
    assert {*points} == {"parent a", "parent b", "uniform", "task arithmetic 0.5"}


def test_slerp_knows_its_ends_and_its_middle() -> None:
    space, points = known({"method": "slerp", "parameters": {"t": T}})
    assert points == {"parent a": {"t": 0.0}, "parent b": {"t": 1.0}, "slerp 0.5": {"t": 0.5}}
    assert space.equivalent((0.5, 0.5)) is None  # the middle on the sphere is no average


def test_a_baseline_with_the_very_recipe_of_a_point_is_that_point() -> None:
    entry = {"method": "ties", "parameters": {"weight": WEIGHT, "density": DENSITY}, "fixed": {"normalize": True}}
    _, points = known(entry)
    assert points == {"ties": {"weight/a": 1.0, "weight/b": 1.0, "density/a": 0.5, "density/b": 0.5}}


def test_among_several_methods_the_one_that_makes_it_is_chosen() -> None:
    entry = {
        "method": ["ties", "task_arithmetic"],
        "parameters": {"weight": WEIGHT, "density": DENSITY},
        "subset": True,
    }
    _, points = known(entry)
    assert points["base"]["method"] == "task_arithmetic"
    assert points["base"]["use/a"] is True
    assert (points["base"]["weight/a"], points["base"]["weight/b"]) == (0, 0)


@pytest.mark.parametrize(
    "entry",
    [
        {"parameters": {"weight": WEIGHT}, "fixed": {"normalize": True}},
        {"parameters": {"weight": WEIGHT}, "fixed": {"lambda": 0.5}},
        {"parameters": {"weight": {"low": 0.25, "high": 0.28, "start": 0.26}}},
        {"parameters": {"lambda": T}, "fixed": {"weight": 0.5}},
    ],
)
def test_what_is_not_exactly_the_same_model_is_no_point(entry: dict[str, Any]) -> None:
    space = bound({"stages": STAGE} | entry)
    for weights in ((0.0, 0.0), (1.0, 0.0), (0.5, 0.5), (0.7, 0.7)):
        assert space.equivalent(weights) is None


def test_a_searched_lambda_of_one_changes_nothing() -> None:
    space = bound({"parameters": {"weight": WEIGHT, "lambda": T}, "stages": STAGE})
    assert space.equivalent((1.0, 0.0)) == {"weight/a": 1.0, "weight/b": 0.0, "lambda": 1.0}


def test_every_baseline_has_a_recipe_of_its_own() -> None:
    names = ["karcher", "model_stock", "slerp:0.25", "multislerp", "tsvm", "task_arithmetic:0.4"]
    data = campaign_data(sources=["m/a", "m/b"], baselines=names)
    made: dict[str, Baseline] = {b.label: b for b in make_baselines(parse_campaign(data, origin="c.yml"))}
    assert [*made][3:] == ["karcher", "model stock", "slerp 0.25", "multislerp", "tsvm", "task arithmetic 0.4"]
    assert made["slerp 0.25"].recipe["base_model"] == "m/a"
    assert "base_model" not in made["multislerp"].recipe
