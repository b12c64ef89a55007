"""fisher and the importances that users give: against the formula, in every place they can lie, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from method_oracles import Expected, Values
from oracle_runs import assert_merge_is_formula
from safetensors.numpy import load_file, save_file

from bench.arrays import read_model, write_file
from bench.families import Family
from engine import Recipe, make_plan, merge, open_checkpoints, parse_recipe, recipe_to_dict
from engine.errors import InputsChanged, MergefleetError, NotFinite, PlanError, RecipeError
from engine.methods import METHODS
from engine.outputs.job import Job, Options
from engine.recipes.check import check_parameters

WEIGHTS = (0.7, 0.4)


@pytest.fixture(scope="module")
def importances(small_family: Family, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """For both fine-tunes a file of float32: zeros here and there, a negative number, subnormal ones."""
    files = []
    for number, model in enumerate(small_family.tunes):
        generator = np.random.default_rng(number)
        tensors = {}
        for name, (dtype, stored) in read_model(model).items():
            if dtype in ("I64", "BOOL"):
                continue
            values = generator.normal(0, 1e-3, np.shape(stored)) ** 2 * (generator.random(np.shape(stored)) < 0.7)
            tensors[name] = ("F32", np.asarray(values, np.float32))
        tensors["model.norm.weight"][1].flat[:3] = -1.0, 1e-40, 1e30
        files.append(tmp_path_factory.mktemp("importances") / "importance.safetensors")
        write_file(files[-1], tensors)
    return files


def recipe_of(models: Any, importances: Any, **top: Any) -> Recipe:
    entries = [
        {"model": str(model), "importance": str(file), "parameters": {"weight": weight}}
        for model, file, weight in zip(models, importances, WEIGHTS, strict=True)
    ]
    return parse_recipe({"merge_method": "fisher", "models": entries} | top, origin="r.yml")


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16", "float64"])
def test_a_merge_equals_the_formula_in_float64_rounded_once(
    dtype: str | None, small_family: Family, importances: list[Path], tmp_path: Path
) -> None:
    stored = [load_file(file) for file in importances]

    def formula(tensor: str, base: Values, others: list[Values]) -> Expected:
        shares = [w * np.maximum(own[tensor].astype(np.float64), 0) for w, own in zip(WEIGHTS, stored, strict=True)]
        total = np.sum(shares, axis=0)
        by_importance = sum(share * x for share, x in zip(shares, others, strict=True)) / np.where(total > 0, total, 1)
        plain = sum(w * x for w, x in zip(WEIGHTS, others, strict=True)) / sum(WEIGHTS)
        value = np.where(total > 0, by_importance, plain)
        return Expected(value, np.abs(others[0]) + np.abs(others[1]), np.zeros(np.shape(value), bool))

    top = {"dtype": dtype} if dtype else {}
    # the family's first model is not merged; the oracle's machinery reads it as the base
    assert_merge_is_formula(recipe_of(small_family.tunes, importances, **top), small_family, formula, tmp_path / "out")


def write(directory: Path, tensors: dict[str, np.ndarray], *, config: bool = True) -> Path:
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    if config:
        (directory / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 1}))
    return directory


NAMES = {"model.layers.0.mlp.up_proj.weight": (3, 4), "model.norm.weight": (4,)}


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two models of ones and of threes."""
    return [
        write(tmp_path / name, {key: np.full(shape, value, np.float32) for key, shape in NAMES.items()})
        for name, value in (("a", 1.0), ("b", 3.0))
    ]


def constant(value: float) -> dict[str, np.ndarray]:
    return {key: np.full(shape, value, np.float32) for key, shape in NAMES.items()}


def merged(recipe: Recipe, out: Path) -> float:
    tensors = load_file(merge(recipe, out).out / "model.safetensors")
    (value,) = set(tensors["model.layers.0.mlp.up_proj.weight"].ravel().tolist())
    return float(value)


def test_an_importance_may_be_a_file_a_directory_without_a_config_or_a_model(pair: list[Path], tmp_path: Path) -> None:
    first = write(tmp_path / "bare", constant(1.0), config=False)
    weights = (0.7 * 1, 0.4 * 3)
    wanted = (weights[0] * 1 + weights[1] * 3) / sum(weights)
    places = [(first / "model.safetensors", pair[1]), (first, pair[1] / "model.safetensors")]
    for number, importance in enumerate(places):  # a model's own values, 3, are its importance
        assert merged(recipe_of(pair, importance), tmp_path / str(number)) == pytest.approx(wanted)


def test_the_provenance_and_the_recipe_of_the_output_name_the_importances(pair: list[Path], tmp_path: Path) -> None:
    files = [write(tmp_path / f"i{n}", constant(1.0), config=False) for n in range(2)]
    recipe = recipe_of(pair, files)
    assert parse_recipe(recipe_to_dict(recipe), origin="r.yml") == recipe
    out = merge(recipe, tmp_path / "out").out
    provenance = json.loads((out / "provenance.json").read_text())
    assert set(provenance["importance"]) == set(map(str, files))
    assert {source["model"] for source in provenance["sources"]} == set(map(str, pair))
    assert "importance" in (out / "recipe.json").read_text()
    assert str(files[0]) not in (out / "README.md").read_text().split("---")[1]  # it is no base_model


def test_other_importances_are_another_plan(pair: list[Path], tmp_path: Path) -> None:
    files = [write(tmp_path / f"i{n}", constant(1.0), config=False) for n in range(2)]
    Job.prepare(recipe_of(pair, files), tmp_path / "out", Options()).close()
    save_file(constant(2.0) | {"more": np.zeros(1)}, files[0] / "model.safetensors")
    with pytest.raises(InputsChanged, match=f"{files[0]}/model.safetensors: "):
        Job.prepare(recipe_of(pair, files), tmp_path / "out", Options())


def refusal(recipe: Recipe) -> str:
    with pytest.raises(MergefleetError) as caught:
        make_plan(recipe, open_checkpoints(recipe.opened))
    assert isinstance(caught.value, (PlanError, RecipeError))
    return str(caught.value)


def test_importances_that_do_not_fit_are_named(pair: list[Path], tmp_path: Path) -> None:
    name, own = "model.layers.0.mlp.up_proj.weight", constant(1.0)
    short = write(tmp_path / "short", {key: own[key] for key in own if key != name}, config=False)
    bent = write(tmp_path / "bent", own | {name: np.ones((4, 3), np.float32)}, config=False)
    whole = write(tmp_path / "whole", own | {name: np.ones((3, 4), np.int32)}, config=False)
    assert refusal(recipe_of(pair, [short, pair[1]])).startswith(
        f"r.yml: {short} has no importance for tensor {name!r} of {pair[0]}; known: model.norm.weight."
    )
    assert refusal(recipe_of(pair, [bent, pair[1]])) == (
        f"r.yml: {bent}: the importance of tensor {name!r} is [4, 3], [3, 4] expected as in {pair[0]}."
    )
    assert f"I32 in {whole}" in refusal(recipe_of(pair, [whole, pair[1]]))


def test_nan_in_an_importance_is_named(pair: list[Path], tmp_path: Path) -> None:
    bad = constant(1.0)
    bad["model.norm.weight"][2] = np.nan
    file = write(tmp_path / "bad", bad, config=False)
    with pytest.raises(NotFinite, match=f"{file}: tensor 'model.norm.weight' holds 1 NaN or Inf"):
        merge(recipe_of(pair, [file, pair[1]]), tmp_path / "out")


def test_recipes_say_where_importances_belong() -> None:
    models = [{"model": "a", "importance": "i"}, {"model": "b"}]
    with pytest.raises(RecipeError) as caught:
        check_parameters(parse_recipe({"merge_method": "fisher", "models": models}, origin="r.yml"), METHODS)
    assert str(caught.value) == (
        "r.yml: models[1]: b has no 'importance', which fisher needs: a file or directory with a tensor of numbers "
        "from 0 for every tensor of the model."
    )
    linear = parse_recipe({"merge_method": "linear", "parameters": {"weight": 1}, "models": models}, origin="r.yml")
    assert check_parameters(linear, METHODS) == ["r.yml: models[0].importance: linear makes no use of it: ignored."]
    entries = [{"model": name, "importance": "i"} for name in "ab"]
    negative = {"merge_method": "fisher", "parameters": {"weight": -1}, "models": entries}
    with pytest.raises(RecipeError, match="weight: got -1, a number of at least 0 expected"):
        check_parameters(parse_recipe(negative, origin="r.yml"), METHODS)


def test_importances_of_float64_do_not_make_the_arithmetic_float64(pair: list[Path], tmp_path: Path) -> None:
    wide = write(tmp_path / "wide", {key: value.astype(np.float64) for key, value in constant(1.0).items()})
    recipe = recipe_of(pair, [wide, wide])
    plan = make_plan(recipe, open_checkpoints(recipe.opened))
    assert {tensor.row_dtype for tensor in plan.tensors} == {"F32"}
