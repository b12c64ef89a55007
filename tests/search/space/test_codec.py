"""The space is a codec: points, recipes and Optuna's distributions say the same."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import campaign_data
from spaces import KINDS, LAYERS, points, resolved, space_of

from engine.errors import CampaignError
from engine.recipes.reader import parse_recipe
from search.campaign_file import parse_campaign
from search.space import make_space

EXACT = [kind for kind in KINDS if kind not in ("cubic3", "cubic5", "module_cubic3")]


@pytest.mark.parametrize("kind", EXACT)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_recipe_gives_back_the_point_it_was_made_of(kind: str, data: st.DataObject) -> None:
    space = space_of(kind)
    point = data.draw(points(space, 0))
    recipe = space.recipe(0, point)
    assert space.params(0, recipe) == space.stages[0].rounded(point)
    assert space.recipe(0, space.params(0, recipe)) == recipe


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_the_engine_reads_every_recipe_and_every_value_lies_within_the_bounds(kind: str, data: st.DataObject) -> None:
    space = space_of(kind)
    recipe = space.recipe(0, data.draw(points(space, 0)))
    assert parse_recipe(recipe).method == "ties"
    for (_, name, _), value in resolved(recipe).items():
        bounds = space.ranges[name]
        assert bounds.low - 1e-9 <= value <= bounds.high + 1e-9


@settings(max_examples=50, deadline=None)
@given(value=st.floats(-3, 3))
def test_rounding_is_idempotent_and_never_leaves_the_bounds(value: float) -> None:
    for axis in space_of("global").stages[0].axes:
        once = axis.rounded(value)
        assert once == axis.rounded(once)
        assert axis.low <= once <= axis.high
        assert (once * axis.grid) == int(once * axis.grid)
        if axis.low + 1 / axis.grid <= value <= axis.high - 1 / axis.grid:
            assert abs(once - value) <= 0.5 / axis.grid + 1e-12


def test_the_unit_cube_and_back_is_the_identity_on_the_grid() -> None:
    stage = space_of("module_blocks2").stages[0]
    start = stage.start()
    assert stage.from_unit(stage.to_unit(start)) == start


def test_optuna_sees_one_float_per_axis_with_our_bounds() -> None:
    stage = space_of("module_knots3").stages[0]
    distributions = stage.distributions()
    assert list(distributions) == [axis.name for axis in stage.axes]
    ends = {(d.low, d.high, d.step) for d in distributions.values()}
    assert ends == {(-0.5, 1.5, 1 / 256), (13 / 128, 1.0, 1 / 128)}  # the grid points within the bounds
    assert len(distributions) == 2 * 2 * (2 * 3 + 1)  # parameters x sources x (two module groups x knots + the rest)


def test_names_of_axes_say_parameter_source_group_and_position() -> None:
    names = [axis.name for axis in space_of("module_blocks2", search=["weight"]).stages[0].axes]
    assert names[:3] == ["weight/a/attention/0", "weight/a/attention/1", "weight/a/mlp/0"]
    assert "weight/b/rest" in names


def test_more_blocks_than_layers_are_refused_with_both_numbers() -> None:
    with pytest.raises(CampaignError, match=r"got 9, the models have 8 layers"):
        space_of("module_blocks2", blocks=9)


def test_a_density_for_a_method_without_one_is_refused() -> None:
    with pytest.raises(CampaignError, match="task_arithmetic has no parameter 'density'"):
        space_of("global", method="task_arithmetic")


@pytest.mark.parametrize(("weights", "found"), [((0.5, 0.5), 0.5), ((2.0, 2.0), None), (None, None)])
def test_task_arithmetic_baselines_are_points_of_a_task_arithmetic_space(weights: Any, found: float | None) -> None:
    data = campaign_data(sources=["m/a", "m/b"])
    space = make_space(parse_campaign(data, origin="c.yml"), layers=LAYERS)
    expected = None if found is None else {"weight/a": found, "weight/b": found}
    assert space.equivalent(weights) == expected
    assert space_of("global").equivalent(weights) is None  # ties is no task arithmetic


def test_stages_of_any_ladder_are_lifted_step_by_step() -> None:
    space = space_of("global", "module", "module_blocks2", "module_blocks8")
    point = {axis.name: 0.25 for axis in space.stages[0].axes}
    step = point
    for index, _ in enumerate(pairwise(space.stages)):
        step = space.lift(index, step)
    assert space.lift_to(0, 3, point) == step
    assert set(step.values()) == {0.25}


@pytest.mark.parametrize(
    ("kind", "axes", "population"), [("global", 4, 6), ("module_blocks2", 20, 30), ("module_blocks8", 68, 60)]
)
def test_the_default_population_grows_with_the_dimensions_within_bounds(kind: str, axes: int, population: int) -> None:
    stage = space_of(kind).stages[0]
    assert (len(stage.axes), stage.population) == (axes, population)
    assert space_of(kind, population=9).stages[0].population == 9
