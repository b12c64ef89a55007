"""Layer sequences: points ↔ mergekit's slices, and axes that exist only where they make a difference."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import LAYERS, bound, points

from engine.errors import CampaignError
from engine.methods import METHODS
from engine.recipes.check import check_parameters
from engine.recipes.reader import parse_recipe
from search.space import Space

SCALE = {"low": 0.25, "high": 1.5, "start": 0.5}


def sequence_space(**layers: Any) -> Space:
    return bound({"method": "passthrough", "layers": layers, "stages": [{"name": "s"}]})


def layers_of(recipe: dict[str, Any]) -> list[tuple[str, int, float | None]]:
    """(model, layer, scale) of every layer of the output."""
    found = []
    for part in recipe["slices"]:
        (source,) = part["sources"]
        scale = source.get("parameters", {}).get("scale")
        value = None if scale is None else scale[0]["value"]
        found += [(source["model"], layer, value) for layer in range(*source["layer_range"])]
    return found


SPACES = [
    sequence_space(),
    sequence_space(places=10, fewest=4, scale=SCALE),
    sequence_space(places=5, run=2, scale=SCALE),
    sequence_space(places=6, fewest=6, scale=SCALE),
]


@pytest.mark.parametrize("space", SPACES, ids=["own depth", "4 to 10", "runs of 2", "fewer"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_sequence_says_which_layer_of_which_source_stands_where(space: Space, data: st.DataObject) -> None:
    stage, sequence = space.stages[0], space.sequence
    assert sequence is not None
    point = stage.rounded(data.draw(points(space)))
    recipe = space.recipe(0, point)
    found = layers_of(recipe)
    depth = point.get("layers/depth", sequence.usual)
    expected: list[tuple[str, int]] = []
    for place in range(int(depth)):
        first = int(point[f"layers/{place}/layer"])
        source = {"a": "m/a", "b": "m/b"}[str(point[f"layers/{place}/source"])]
        expected += [(source, first + step) for step in range(sequence.run)]
    assert [(model, layer) for model, layer, _ in found] == expected
    seen: set[int] = set()
    for start in range(0, len(found), sequence.run):
        own = {layer for _, layer, _ in found[start : start + sequence.run]}
        scaled = found[start][2] is not None
        assert scaled == (sequence.scale is not None and bool(own & seen))  # a scale exactly where a layer is repeated
        seen |= own
    assert not check_parameters(parse_recipe(recipe), METHODS)
    assert space.params(0, recipe) == stage.canonical(point)
    assert space.recipe(0, stage.canonical(point)) == recipe


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_axes_that_make_no_difference_are_not_active(data: st.DataObject) -> None:
    space = SPACES[1]
    stage = space.stages[0]
    point = stage.rounded(data.draw(points(space)))
    other = stage.rounded(data.draw(points(space)))
    active = {axis.name for axis in stage.active(point)}
    moved = {name: value if name in active else other[name] for name, value in point.items()}
    assert space.recipe(0, moved) == space.recipe(0, point)


def test_the_start_is_the_first_source_as_it_is() -> None:
    for space in SPACES[:2]:
        recipe = space.recipe(0, space.stages[0].start())
        assert layers_of(recipe) == [("m/a", layer, None) for layer in range(LAYERS)]
        assert len(recipe["slices"]) == 1


@pytest.mark.parametrize(("weights", "model"), [((1.0, 0.0), "m/a"), ((0.0, 1.0), "m/b")])
def test_parents_are_points(weights: tuple[float, float], model: str) -> None:
    for space in SPACES[:2]:
        point = space.equivalent(weights)
        assert point is not None
        assert layers_of(space.recipe(0, point)) == [(model, layer, None) for layer in range(LAYERS)]
        assert space.equivalent((0.5, 0.5)) is None
    assert SPACES[3].equivalent(weights) is None  # six layers are no parent


def test_a_scale_holds_for_what_goes_into_the_residual_stream() -> None:
    space = sequence_space(places=9, fewest=9, scale=SCALE)
    last = space.recipe(0, space.stages[0].start())["slices"][-1]["sources"][0]
    assert last["layer_range"] == [7, 8]
    choices = [{"filter": "o_proj", "value": 0.5}, {"filter": "down_proj", "value": 0.5}, {"value": 1.0}]
    assert last["parameters"] == {"scale": choices}


def test_runs_that_do_not_fill_the_model_are_refused() -> None:
    with pytest.raises(CampaignError, match=r"c\.yml: space\.layers\.run: got 3, the models have 8 layers"):
        sequence_space(run=3)
