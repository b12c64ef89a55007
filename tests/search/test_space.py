"""The space is a codec: points, recipes and Optuna's distributions say the same; stages contain each other exactly."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import campaign_data

from engine.errors import CampaignError
from engine.keypath import KeyPath
from engine.recipe_reader import parse_recipe
from engine.settings import evaluate, parse_setting
from search.campaign_file import parse_campaign
from search.space import Space, make_space

GRID = {"weight": 256, "density": 128}

KINDS: dict[str, dict[str, Any]] = {
    "global": {"by": "global"},
    "module": {"by": "module"},
    "blocks2": {"by": "layer_block", "blocks": 2},
    "blocks4": {"by": "layer_block", "blocks": 4},
    "module_blocks2": {"by": "module_layer", "blocks": 2},
    "module_blocks8": {"by": "module_layer", "blocks": 8},
    "knots3": {"by": "gradient", "knots": 3},
    "knots5": {"by": "gradient", "knots": 5},
    "module_knots3": {"by": "module_gradient", "knots": 3},
    "module_knots5": {"by": "module_gradient", "knots": 5},
}
CONTAINED = [
    *[("global", other) for other in KINDS if other != "global"],
    *[("module", f"module_{depth}") for depth in ("blocks2", "blocks8", "knots3", "knots5")],
    ("blocks2", "blocks4"),
    ("module_blocks2", "module_blocks8"),
    ("knots3", "knots5"),
    ("module_knots3", "module_knots5"),
    ("module_knots3", "module_blocks8"),  # one block per layer follows any gradient
]
LAYERS = 8
TENSORS = [
    "model.embed_tokens.weight",
    *[
        f"model.layers.{layer}.{part}.weight"
        for layer in range(LAYERS)
        for part in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")
    ],
    "model.norm.weight",
]


def space_of(*kinds: str, method: str = "ties", **stage: Any) -> Space:
    """A space of two sources with these stages, weight and density both searched."""
    stages = [{"name": kind, **KINDS[kind], **stage} for kind in kinds]
    parameters = {
        "weight": {"low": -0.5, "high": 1.5, "start": 0.5},
        "density": {"low": 0.1, "high": 1.0, "start": 0.5},
    }
    data = campaign_data(
        sources=["m/a", "m/b"],
        space={"method": method, "parameters": parameters, "stages": stages},
        dtype="float32",
    )
    return make_space(parse_campaign(data, origin="c.yml"), layers=LAYERS)


def points(space: Space, stage: int) -> st.SearchStrategy[dict[str, float]]:
    axes = space.stages[stage].axes
    return st.fixed_dictionaries({axis.name: st.floats(axis.low, axis.high) for axis in axes})


def resolved(recipe: dict[str, Any]) -> dict[tuple[int, str, str], float]:
    """(source, parameter, tensor) → value, by the engine's own rules."""
    values = {}
    for source, model in enumerate(recipe["models"]):
        for (name, raw), tensor in product(model["parameters"].items(), TENSORS):
            layer = int(tensor.split(".")[2]) if "layers" in tensor else (0 if "embed" in tensor else LAYERS - 1)
            value = evaluate(parse_setting(raw, where=KeyPath("r")), tensor, layer / (LAYERS - 1))
            assert value is not None
            values[source, name, tensor] = float(value)
    return values


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
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


@pytest.mark.parametrize(("coarse", "fine"), CONTAINED)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_lifted_point_gives_every_tensor_the_same_value(coarse: str, fine: str, data: st.DataObject) -> None:
    space = space_of(coarse, fine)
    point = space.stages[0].rounded(data.draw(points(space, 0)))
    before = resolved(space.recipe(0, point))
    after = resolved(space.recipe(1, space.lift(0, point)))
    interpolated = "knots" in coarse  # values between two knots may lie between two points of the grid
    for key, value in before.items():
        assert after[key] == pytest.approx(value, abs=0.5 / GRID[key[1]] + 1e-9 if interpolated else 1e-12), key


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        ("module", "global"),
        ("module", "blocks2"),
        ("blocks4", "blocks2"),
        ("blocks2", "module_blocks2"),
        ("knots5", "knots3"),
        ("knots3", "module_knots3"),
        ("knots3", "blocks4"),
        ("blocks2", "knots5"),
    ],
)
def test_a_stage_that_cannot_hold_the_one_before_it_is_refused(coarse: str, fine: str) -> None:
    with pytest.raises(CampaignError, match="from coarse to fine"):
        space_of(coarse, fine)


def test_a_parameter_that_a_coarse_stage_leaves_alone_is_lifted_to_the_value_it_had_there() -> None:
    stages = [{"name": "weights", "search": ["weight"]}, {"name": "both", "by": "module"}]
    parameters = {"weight": {"low": 0, "high": 1, "start": 0.5}, "density": {"low": 0.1, "high": 1, "start": 0.75}}
    entry = {"method": "ties", "parameters": parameters, "stages": stages}
    space = make_space(parse_campaign(campaign_data(space=entry), origin="c.yml"), layers=LAYERS)
    assert {axis.parameter for axis in space.stages[0].axes} == {"weight"}
    point = {axis.name: 0.25 for axis in space.stages[0].axes}
    assert resolved(space.recipe(0, point)) == resolved(space.recipe(1, space.lift(0, point)))


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
    with pytest.raises(CampaignError, match="task_arithmetic has no density"):
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
