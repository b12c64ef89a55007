"""Which value of a setting counts for a tensor: levels, filters, gradients, the base; filters that match nothing."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine import Plan, make_plan, open_checkpoints, parse_recipe
from engine.errors import PlanError
from engine.methods.contract import Call

LEVELS = ("source", "slice", "module", "top")
VALUES = {level: float(number) for number, level in enumerate(LEVELS, start=2)}
UP, QUERY = "model.layers.{}.mlp.up_proj.weight", "model.layers.{}.self_attn.q_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


def model(directory: Path, *, layers: int = 4, attention: set[int] | None = None, experts: int = 0) -> str:
    """A model whose layers have self_attn where `attention` says so, else mamba, and as many experts as asked for."""
    names = [EMBEDDING, "model.norm.weight"]
    for layer in range(layers):
        kind = "self_attn" if attention is None or layer in attention else "mamba"
        names += [UP.format(layer), f"model.layers.{layer}.{kind}.q_proj.weight"]
        names += [f"model.layers.{layer}.mlp.experts.{expert}.w1.weight" for expert in range(experts)]
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.ones((4, 2), np.float32) for name in names}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "llama", "num_hidden_layers": layers, "tie_word_embeddings": True}
    (directory / "config.json").write_text(json.dumps(config))
    return str(directory)


@pytest.fixture
def ab(tmp_path: Path) -> tuple[str, str]:
    return model(tmp_path / "a"), model(tmp_path / "b")


def planned(data: dict[str, Any]) -> Plan:
    recipe = parse_recipe(data, origin="r.yml")
    return make_plan(recipe, open_checkpoints(recipe.models))


def call(plan: Plan, name: str) -> Call:
    found = next(t.call for t in plan.tensors if t.name == name)
    assert found is not None
    return found


def with_settings(ab: tuple[str, str], parameter: str, stated: dict[str, Any]) -> dict[str, Any]:
    """linear of two models in one module of one slice, with `parameter` stated at some of the levels (of the first)."""

    def at(level: str, **body: Any) -> dict[str, Any]:
        return body | ({"parameters": {parameter: stated[level]}} if level in stated else {})

    a, b = ({"model": name, "layer_range": [0, 4]} for name in ab)
    b["parameters"] = {"weight": 1}
    part = at("slice", sources=[at("source", **a), b])
    return at("top", merge_method="linear", modules={"default": at("module", slices=[part])})


@pytest.mark.parametrize("levels", [levels for levels in product([False, True], repeat=4) if any(levels)])
def test_the_most_specific_level_wins_whatever_the_others_say(ab: tuple[str, str], levels: tuple[bool, ...]) -> None:
    stated = {level: VALUES[level] for level, said in zip(LEVELS, levels, strict=True) if said}
    plan = planned(with_settings(ab, "weight", stated))
    nearest = next(value for level, value in VALUES.items() if level in stated)
    assert {call(plan, name).sources["weight"] for name in (UP.format(2), EMBEDDING)} == {(nearest, 1.0)}


@pytest.mark.parametrize("level", LEVELS[:3])
def test_a_level_whose_filters_all_fail_lets_the_next_one_speak(ab: tuple[str, str], level: str) -> None:
    stated: dict[str, Any] = {
        "top": 9.0,
        level: [{"filter": "re:q_proj", "value": 7.0}, {"filter": "gate", "value": 8.0}],
    }
    plan = planned(with_settings(ab, "weight", stated))
    assert call(plan, QUERY.format(1)).sources["weight"][0] == 7.0
    assert call(plan, UP.format(1)).sources["weight"][0] == 9.0


def test_a_setting_of_the_whole_merge_never_looks_at_a_source(ab: tuple[str, str]) -> None:
    data = with_settings(ab, "normalize", {"source": False, "module": True, "top": False})
    data["parameters"]["weight"] = 1
    plan = planned(data)
    assert call(plan, UP.format(0)).options["normalize"] == 1.0
    assert any("'normalize' holds for the whole merge" in warning for warning in plan.warnings)


def test_a_setting_of_a_model_sees_names_as_they_are_there_and_one_of_the_merge_those_of_the_output(
    tmp_path: Path,
) -> None:
    a, b = model(tmp_path / "a"), model(tmp_path / "b")
    first = [{"model": m, "layer_range": [0, 2]} for m in (a, b)]
    second = [{"model": m, "layer_range": [r, r + 2]} for m, r in ((a, 0), (b, 2))]
    parameters = {
        "weight": [{"filter": "layers.3.", "value": 3}, {"value": 1}],
        "normalize": [{"filter": "layers.3.", "value": False}, {"value": True}],
    }
    slices = [{"sources": first}, {"sources": second}]
    plan = planned({"merge_method": "linear", "slices": slices, "parameters": parameters})
    assert [call(plan, UP.format(layer)).sources["weight"] for layer in range(4)] == [(1, 1), (1, 1), (1, 1), (1, 3)]
    assert [call(plan, UP.format(layer)).options["normalize"] for layer in range(4)] == [1, 1, 1, 0]


def test_a_gradient_runs_over_its_slice_and_a_slice_of_one_layer_takes_the_last_knot(ab: tuple[str, str]) -> None:
    parts = [[0, 3], [3, 4]]
    slices = [{"sources": [{"model": m, "layer_range": part} for m in ab]} for part in parts]
    plan = planned({"merge_method": "linear", "slices": slices, "parameters": {"weight": [1, 5]}})
    assert [call(plan, UP.format(layer)).sources["weight"][0] for layer in range(4)] == [1, 3, 5, 5]
    assert call(plan, "model.norm.weight").sources["weight"] == (1, 1)


def test_the_base_needs_no_value_and_a_slice_may_have_a_base_of_its_own(ab: tuple[str, str], tmp_path: Path) -> None:
    a, b = ab
    c = model(tmp_path / "c")
    weighted = {"parameters": {"weight": 1}}
    one = [{"model": a, "layer_range": [0, 2]}, {"model": b, "layer_range": [0, 2], **weighted}]
    two = [{"model": c, "layer_range": [1, 3]}, {"model": b, "layer_range": [2, 4], **weighted}]
    slices = [{"sources": one}, {"sources": two, "base_model": c}]
    plan = planned({"merge_method": "task_arithmetic", "base_model": a, "slices": slices})
    got = [[(str(plan.sources[v.source]), v.tensor) for v in t.inputs] for t in plan.tensors if "up_proj" in t.name]
    assert got == [
        [(a, UP.format(0)), (b, UP.format(0))],
        [(a, UP.format(1)), (b, UP.format(1))],
        [(c, UP.format(1)), (b, UP.format(2))],
        [(c, UP.format(2)), (b, UP.format(3))],
    ]
    assert all(call(plan, t.name).base for t in plan.tensors)
    assert next(t for t in plan.tensors if t.name == "model.norm.weight").inputs[0].source == plan.sources.index(
        parse_recipe({"merge_method": "linear", "models": [{"model": c}]}).models[0]
    )


def test_a_base_without_the_layers_that_a_merge_needs_is_named(tmp_path: Path) -> None:
    a, base = model(tmp_path / "a", layers=4), model(tmp_path / "base", layers=2)
    data = {
        "merge_method": "task_arithmetic",
        "base_model": base,
        "models": [{"model": a, "parameters": {"weight": 1}}],
    }
    with pytest.raises(PlanError, match=r"r.yml: .*base has 2 layers, and a slice needs layer 2 of it"):
        planned(data)


def test_layers_of_a_hybrid_model_have_the_tensors_they_have(tmp_path: Path) -> None:
    a, b = (model(tmp_path / name, attention={0, 2}) for name in ("a", "b"))
    parameters = {"weight": [{"filter": "mamba", "value": 2}, {"value": 1}]}
    plan = planned({"merge_method": "linear", "models": [{"model": a}, {"model": b}], "parameters": parameters})
    names = {t.name for t in plan.tensors}
    assert {QUERY.format(0), QUERY.format(2), "model.layers.1.mamba.q_proj.weight"} <= names
    assert QUERY.format(1) not in names
    assert call(plan, "model.layers.1.mamba.q_proj.weight").sources["weight"] == (2, 2)
    stacked = [{"sources": [{"model": a, "layer_range": [n, n + 1]}]} for n in (1, 0, 1)]
    plan = planned({"merge_method": "passthrough", "slices": stacked})
    assert {"model.layers.0.mamba.q_proj.weight", QUERY.format(1), "model.layers.2.mamba.q_proj.weight"} <= {
        t.name for t in plan.tensors
    }
    mixed = [{"sources": [{"model": a, "layer_range": [0, 1]}, {"model": b, "layer_range": [1, 2]}]}]
    with pytest.raises(PlanError, match=r"tensor 'model.layers.1.self_attn.q_proj.weight' is missing in .*b"):
        planned({"merge_method": "linear", "slices": mixed, "parameters": {"weight": 1}})


def test_experts_keep_their_names_and_can_be_told_apart_by_filters(tmp_path: Path) -> None:
    a, b = (model(tmp_path / name, experts=12) for name in ("a", "b"))
    weight = [{"filter": "experts.1.", "value": 2}, {"filter": r"re:experts\.\d\d\.", "value": 3}, {"value": 1}]
    plan = planned({"merge_method": "linear", "models": [{"model": a}, {"model": b}], "parameters": {"weight": weight}})
    got = [call(plan, f"model.layers.3.mlp.experts.{expert}.w1.weight").sources["weight"][0] for expert in range(12)]
    assert got == [1, 2, *[1] * 8, 3, 3]
    assert plan.warnings == ()


# filters that match nothing


def test_a_filter_for_no_tensor_is_a_warning_with_place_and_nearest_names(ab: tuple[str, str]) -> None:
    weight = [
        {"filter": "mpl", "value": 2},
        {"filter": "self_atn", "value": 2},
        {"filter": "mlp", "value": 3},
        {"value": 1},
    ]
    entries = [{"model": ab[0], "parameters": {"weight": weight}}, {"model": ab[1]}]
    normalize = [{"filter": "re:layers\\.9\\.", "value": False}, {"value": True}]
    top = {"weight": 1, "normalize": normalize}
    plan = planned({"merge_method": "linear", "models": entries, "parameters": top})
    assert plan.warnings == (
        "r.yml: models[0].parameters.weight: filter 'mpl' matches no tensor; did you mean 'mlp'?",
        "r.yml: models[0].parameters.weight: filter 'self_atn' matches no tensor; did you mean 'self_attn'?",
        f"r.yml: parameters.normalize: filter 're:layers\\\\.9\\\\.' matches no tensor; names look like {EMBEDDING!r}",
    )


def test_a_filter_behind_another_level_or_another_filter_matches_nothing_only_where_no_name_has_it(
    ab: tuple[str, str],
) -> None:
    weight = [{"filter": "proj", "value": 2}, {"filter": "up_proj", "value": 5}, {"value": 1}]
    entries = [{"model": name, "parameters": {"weight": weight}} for name in ab]
    plan = planned(
        {"merge_method": "linear", "models": entries, "parameters": {"weight": [{"filter": "mlp", "value": 9}]}}
    )
    assert plan.warnings == ()


def test_filters_of_another_methods_parameter_are_only_said_to_be_ignored(ab: tuple[str, str]) -> None:
    density = [{"filter": "nothing_like_it", "value": 0.5}, {"value": 1}]
    entries = [{"model": name, "parameters": {"weight": 1, "density": density}} for name in ab]
    [warning] = planned({"merge_method": "linear", "models": entries}).warnings
    assert "linear has no parameter 'density': ignored" in warning
