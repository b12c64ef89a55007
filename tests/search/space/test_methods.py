"""Every method of the engine's table may be searched over every parameter it has, within its bounds and no further."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import DENSITY, WEIGHT, bound, points, resolved, space_of, values_of

from engine.errors import CampaignError
from engine.methods import METHODS, Parameter
from engine.recipes.check import check_parameters
from engine.recipes.reader import parse_recipe
from search.space import Space
from search.space.methods import merge_method

PARAMETERS = [(name, row.name) for name, method in METHODS.items() for row in method.parameters.values()]
SEARCHED = [pair for pair in PARAMETERS if pair[1] != "int8_mask"]  # which means nothing


def searched(row: Parameter) -> Any:
    """What a campaign may say about a parameter."""
    if isinstance(row.default, bool):
        return [row.default, not row.default]
    low = row.low if math.isfinite(row.low) else -1.0
    high = row.high if math.isfinite(row.high) else low + (3 if row.whole else 1.5)
    start = row.default if row.default is not None and low <= row.default <= high else (low + high) / 2
    return {"low": low, "high": high, "start": float(int(start)) if row.whole else start}


def space_over(method: str, name: str, **stage: Any) -> Space:
    """The space of one parameter; others that the method cannot do without are fixed."""
    rows = METHODS[method].parameters
    needed = {row.name: 0.5 for row in rows.values() if row.required and row.name != name}
    if method in ("della", "della_linear"):
        needed |= {"density": 0.5, "epsilon": 0.25}  # chances from 0.25 to 0.75, whatever else is drawn
        needed.pop(name, None)
    many = merge_method(method, use_base=False, origin="c.yml").accepts(2)
    sources: tuple[Any, ...] = ({"model": "m/a", "importance": "i/a"}, {"model": "m/b", "importance": "i/b"})
    parameters = {name: searched(rows[name])} if name else {}
    if not METHODS[method].importance:
        sources = ("m/a", "m/b")
    entry = {"method": method, "parameters": parameters, "fixed": needed, "stages": [{"name": "s", **stage}]}
    return bound(entry, sources=sources[: 2 if many else 1])


@pytest.mark.parametrize(("method", "name"), SEARCHED)
def test_every_parameter_of_every_method_can_be_searched(method: str, name: str) -> None:
    space = space_over(method, name)
    row = METHODS[method].parameters[name]
    kinds = {axis.kind for axis in space.stages[0].axes}
    assert kinds == {"category" if isinstance(row.default, bool) else "int" if row.whole else "float"}
    named = {axis.name for axis in space.stages[0].axes}
    assert named == ({f"{name}/{source}" for source in space.sources} if row.scope == "model" else {name})
    draw = st.fixed_dictionaries({axis.name: values_of(axis) for axis in space.stages[0].axes})

    @settings(max_examples=3, deadline=None, database=None)
    @given(point=draw)
    def the_engine_takes_it(point: dict[str, Any]) -> None:
        repaired = space.repair(0, point)
        recipe = space.recipe(0, repaired)
        check_parameters(parse_recipe(recipe), METHODS)
        assert space.recipe(0, space.params(0, recipe)) == recipe

    the_engine_takes_it()


@pytest.mark.parametrize("kind", ["module", "knots3", "cubic3", "module_blocks2", "parts_blocks8"])
def test_a_parameter_of_the_whole_merge_varies_over_tensors_too(kind: str) -> None:
    space = space_of(kind, method="slerp", entry={"parameters": {"t": {"low": 0, "high": 1, "start": 0.5}}})
    point = {axis.name: n / len(space.stages[0].axes) for n, axis in enumerate(space.stages[0].axes)}
    recipe = space.recipe(0, point)
    assert recipe["base_model"] == "m/a"
    assert [model["model"] for model in recipe["models"]] == ["m/a", "m/b"]
    assert len({value for (source, name, _), value in resolved(recipe).items() if (source, name) == (-1, "t")}) > 1


def test_slerp_of_one_source_goes_from_the_base_to_it() -> None:
    entry = {"method": "slerp", "parameters": {"t": {"low": 0, "high": 1, "start": 0.5}}, "stages": [{"name": "s"}]}
    recipe = bound(entry, sources=("m/a",)).recipe(0, {"t": 0.25})
    assert (recipe["base_model"], [model["model"] for model in recipe["models"]]) == ("models/base", ["m/a"])
    assert recipe["parameters"] == {"t": 0.25}


@pytest.mark.parametrize(("use_base", "base"), [(False, None), (True, "models/base")])
def test_a_method_that_can_do_without_a_base_gets_one_only_if_told(use_base: bool, base: str | None) -> None:
    entry = {"method": "multislerp", "use_base": use_base, "parameters": {"weight": WEIGHT}, "stages": [{"name": "s"}]}
    space = bound(entry)
    assert space.recipe(0, space.stages[0].start()).get("base_model") == base


def test_grids_are_finer_than_noise_and_finer_still_where_a_range_is_narrow() -> None:
    entry = {"method": "ram", "parameters": {"epsilon": {"low": 0, "high": 1e-4, "start": 1e-5}}}
    (axis,) = bound(entry | {"stages": [{"name": "s"}]}).stages[0].axes
    assert 1 / axis.grid <= 1e-4 / 16
    grids = {axis.parameter: axis.grid for axis in space_of("global").stages[0].axes}
    assert grids == {"weight": 256, "density": 128}


MIXED = {
    "method": ["ties", "dare_linear", "linear"],
    "parameters": {
        "weight": WEIGHT | {"low": 0.125},
        "density": DENSITY,
        "lambda": {"low": 0.5, "high": 1.5, "start": 1},
    },
    "subset": True,
    "stages": [{"name": "s"}],
}


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_category_of_methods_has_the_parameters_of_the_chosen_one(data: st.DataObject) -> None:
    space = bound(MIXED)
    stage = space.stages[0]
    point = space.repair(0, data.draw(points(space)))
    recipe = space.recipe(0, point)
    chosen = METHODS[recipe["merge_method"]]
    active = {axis.parameter for axis in stage.active(point)} - {"method", "use"}
    assert active == {"weight", "density", "lambda"} & {*chosen.parameters}
    assert {name for model in recipe["models"] for name in model["parameters"]} == active - {"lambda"}
    assert not check_parameters(parse_recipe(recipe), METHODS)  # no warning: nothing is there that has no effect
    assert space.params(0, recipe) == stage.canonical(point)
    assert space.recipe(0, stage.canonical(point)) == recipe


def test_a_source_that_is_left_out_keeps_its_number() -> None:
    space = bound(MIXED)
    recipe = space.recipe(0, space.stages[0].start() | {"use/a": False})
    assert [(model["model"], model["source_id"]) for model in recipe["models"]] == [("m/b", 1)]
    ids = parse_recipe(recipe).source_ids
    assert {str(ref): number for ref, number in ids.items()}["m/b"] == 1


def test_leaving_out_all_sources_is_repaired() -> None:
    space = bound(MIXED)
    nothing = space.stages[0].start() | {"use/a": False, "use/b": False}
    assert space.violation(0, nothing) == 1
    assert space.taking_part(space.repair(0, nothing))


def test_optuna_sees_categories_and_whole_numbers_as_such() -> None:
    entry = MIXED | {"method": ["consensus_ta", "ties"], "parameters": {"k": {"low": 1, "high": 4, "start": 2}}}
    space = bound(entry | {"fixed": {"weight": 1.0}})
    found = {name: type(d).__name__ for name, d in space.stages[0].distributions().items()}
    assert found["method"] == found["use/a"] == "CategoricalDistribution"
    assert found["k"] == "IntDistribution"
    assert {axis.unit(1) for axis in space.stages[0].numeric} == {0.125}  # the middle of the first quarter


def test_a_users_own_method_is_looked_for_and_an_unknown_one_refused() -> None:
    with pytest.raises(CampaignError, match=r"c\.yml: space\.method: unknown method 'tiess'; did you mean 'ties'"):
        space_of("global", method="tiess")


def test_a_users_own_method_is_searched_over_its_own_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "def swap(base, models, weight: list[float], t: float = 0.25, hard: bool = False):\n    return base\n"
    (tmp_path / "my_methods.py").write_text(code)
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[mergefleet.methods]\nmy_swap = my_methods:swap\n")
    monkeypatch.syspath_prepend(tmp_path)
    parameters = {"weight": WEIGHT, "t": {"low": 0, "high": 1, "start": 0.25}, "hard": [False, True]}
    space = bound({"method": "my_swap", "parameters": parameters, "stages": [{"name": "s"}]})
    assert {*space.stages[0].by_name} == {"weight/a", "weight/b", "t", "hard"}
    recipe = space.recipe(0, space.stages[0].start() | {"hard": True})
    assert (recipe["merge_method"], recipe["base_model"]) == ("my_swap", "models/base")
    assert recipe["parameters"] == {"t": 0.25, "hard": True}
    with pytest.raises(
        CampaignError, match=r"space\.parameters\.lambda: my_swap has no parameter 'lambda'; known: hard, t, weight"
    ):
        bound({"method": "my_swap", "parameters": {"lambda": WEIGHT}, "stages": [{"name": "s"}]})
