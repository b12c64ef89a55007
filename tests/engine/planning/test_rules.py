"""Rules for single tensors: what is kept, copied and left out, what that does to the config, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bench.arrays import decode, encode, read_model, write_file
from engine import Plan, make_plan, merge, open_checkpoints, parse_recipe
from engine.errors import RecipeError

UP = "model.layers.{}.mlp.up_proj.weight"
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def model(directory: Path, fill: float, *, layers: int = 3, tied: bool = False, extra: tuple[str, ...] = ()) -> str:
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (6, 4), NORM: (4,)}
    for layer in range(layers):
        shapes |= {UP.format(layer): (5, 4), f"model.layers.{layer}.self_attn.q_proj.weight": (4, 4)}
    shapes |= {} if tied else {HEAD: (6, 4)}
    shapes |= dict.fromkeys(extra, (2,))
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: np.full(shape, fill + int(name.split(".")[2]) / 8 if ".layers." in name else fill, np.float32)
        for name, shape in shapes.items()
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "llama", "num_hidden_layers": layers, "tie_word_embeddings": tied}
    (directory / "config.json").write_text(json.dumps(config))
    return str(directory)


@pytest.fixture
def models(tmp_path: Path) -> dict[str, str]:
    """a, b and c hold 1, 2 and 4, the base 8, and an eighth more per layer; c is a layer deeper."""
    made = {name: model(tmp_path / name, fill) for name, fill in (("a", 1), ("b", 2), ("base", 8))}
    return made | {"c": model(tmp_path / "c", 4, layers=4)}


def linear(models: Mapping[str, str], *rules: dict[str, Any], **top: Any) -> dict[str, Any]:
    entries = [{"model": models[name], "parameters": {"weight": 1}} for name in ("a", "b")]
    placed = [rule | ({"copy": models[rule["copy"]]} if "copy" in rule else {}) for rule in rules]
    return {"merge_method": "linear", "base_model": models["base"], "models": entries, "tensors": placed or None} | top


def planned(data: dict[str, Any]) -> Plan:
    recipe = parse_recipe(data, origin="r.yml")
    return make_plan(recipe, open_checkpoints(recipe.models))


def merged(data: dict[str, Any], out: Path) -> dict[str, float]:
    """Output tensor → its first value."""
    merge(parse_recipe(data, origin="r.yml"), out)
    return {name: float(stored.flat[0]) for name, (_, stored) in read_model(out).items()}


def test_the_first_rule_that_matches_decides_and_the_rest_is_merged(models: dict[str, str], tmp_path: Path) -> None:
    rules = (
        {"filter": "re:layers\\.0\\.mlp", "keep": "base"},
        {"filter": "mlp", "copy": "c"},
        {"filter": "layers.0", "copy": "b"},
        {"filter": "lm_head", "exclude": True},
    )
    got = merged(linear(models, *rules), tmp_path / "out")
    assert got == {
        EMBEDDING: 1.5,
        UP.format(0): 8.0,
        UP.format(1): 4.125,
        UP.format(2): 4.25,
        "model.layers.0.self_attn.q_proj.weight": 2.0,
        "model.layers.1.self_attn.q_proj.weight": 1.625,
        "model.layers.2.self_attn.q_proj.weight": 1.75,
        NORM: 1.5,
    }


def test_in_a_stack_a_copy_comes_from_the_layer_that_the_slice_names_or_else_its_first_source(
    models: dict[str, str],
) -> None:
    def source(name: str, start: int, end: int) -> dict[str, Any]:
        return {"model": models[name], "layer_range": [start, end]}

    slices = [{"sources": [source("a", 0, 2)]}, {"sources": [source("c", 2, 4)]}]
    rules = [{"filter": "mlp", "copy": models["c"]}, {"filter": "norm", "keep": "base"}]
    recipe = {"merge_method": "passthrough", "base_model": models["base"], "slices": slices, "tensors": rules}
    plan = planned(recipe)
    got = {t.name: (str(plan.sources[t.inputs[0].source]), t.inputs[0].tensor) for t in plan.tensors}
    assert [got[UP.format(layer)] for layer in range(4)] == [(models["c"], UP.format(layer)) for layer in (0, 1, 2, 3)]
    assert got["model.layers.3.self_attn.q_proj.weight"] == (models["c"], "model.layers.3.self_attn.q_proj.weight")
    assert got[NORM] == (models["base"], NORM)


def test_a_tied_model_lends_its_embedding_where_a_rule_copies_its_head(models: dict[str, str], tmp_path: Path) -> None:
    tied = models | {"tied": model(tmp_path / "tied", 16, tied=True)}
    plan = planned(linear(tied, {"filter": "lm_head", "copy": "tied"}))
    head = next(t for t in plan.tensors if t.name == HEAD)
    assert head.inputs[0].tensor == EMBEDDING
    assert plan.config["tie_word_embeddings"] is False


def test_a_tensor_that_only_one_source_has_may_be_excluded_or_copied(models: dict[str, str], tmp_path: Path) -> None:
    odd = models | {"b": model(tmp_path / "odd", 2, extra=("model.extra.bias",))}
    plan = planned(linear(odd, {"filter": "extra", "exclude": True}))
    assert "model.extra.bias" not in {t.name for t in plan.tensors}
    assert "model.extra.bias" in plan.left_out[odd["b"]]
    copied = planned(linear(odd, {"filter": "extra", "copy": "b"}))
    assert "model.extra.bias" in {t.name for t in copied.tensors}


def test_excluding_the_head_ties_it_to_the_embedding(models: dict[str, str]) -> None:
    plan = planned(linear(models, {"filter": "lm_head", "exclude": True}))
    assert plan.config["tie_word_embeddings"] is True
    assert HEAD in plan.left_out[models["a"]]
    assert plan.warnings == ()


def test_what_the_config_needs_is_excluded_only_with_anyway(models: dict[str, str]) -> None:
    with pytest.raises(RecipeError) as caught:
        planned(linear(models, {"filter": "lm_head", "exclude": True}, {"filter": "mlp", "exclude": True}))
    assert str(caught.value) == (
        f"r.yml: tensors[1]: excludes {UP.format(0)!r} and 2 more, which a model of this config.json has: transformers "
        "would put random numbers there. Write exclude: anyway if that is meant."
    )
    plan = planned(linear(models, {"filter": "mlp", "exclude": "anyway"}))
    assert not any("mlp" in t.name for t in plan.tensors)


@pytest.mark.parametrize("name", ["model.layers.3.mlp.up_proj.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_prediction_layers_and_buffers_may_be_excluded(name: str, models: dict[str, str], tmp_path: Path) -> None:
    names = ("a", "b", "base")
    more = {n: model(tmp_path / "more" / n, 1, extra=(name,)) for n in names}
    for n in names:
        file = tmp_path / "more" / n / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "num_nextn_predict_layers": int("3" in name)}))
    plan = planned(linear(more, {"filter": name, "exclude": True}))
    assert name not in {t.name for t in plan.tensors}


def test_a_rule_for_no_tensor_is_a_warning_with_the_nearest_names(models: dict[str, str]) -> None:
    plan = planned(linear(models, {"filter": "lm_haed", "exclude": True}, {"filter": "re:layers\\.7", "keep": "base"}))
    assert plan.warnings == (
        "r.yml: tensors[0]: filter 'lm_haed' matches no tensor; did you mean 'lm_head'?",
        f"r.yml: tensors[1]: filter 're:layers\\\\.7' matches no tensor; names look like {EMBEDDING!r}",
    )


def test_rules_are_part_of_the_plans_identity(models: dict[str, str]) -> None:
    rules: list[tuple[dict[str, Any], ...]] = [
        (),
        ({"filter": NORM, "keep": "base"},),
        ({"filter": NORM, "copy": "a"},),
        ({"filter": NORM, "copy": "c"},),
        ({"filter": NORM, "exclude": "anyway"},),
    ]
    assert len({planned(linear(models, *some)).digest for some in rules}) == len(rules)


VALUES = np.array([1.0, -2.5, 1 / 3, 6e-5, 123456.789, 0.0], np.float32)
CODES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}


@pytest.mark.parametrize("stored", CODES)
def test_a_copy_is_rounded_to_dtype_and_then_written_as_out_dtype(stored: str, tmp_path: Path) -> None:
    values = np.where(np.abs(VALUES) < 6e4, VALUES, 100.0)
    made = Path(model(tmp_path / "a", 1))
    tensors = {name: (code, np.array(data)) for name, (code, data) in read_model(made).items()}
    tensors[NORM] = (CODES[stored], encode(values, CODES[stored]))
    write_file(made / "model.safetensors", tensors)
    models, rules = [{"model": model(tmp_path / "b", 1)}], [{"filter": NORM, "keep": "base"}]
    recipe = {"merge_method": "passthrough", "base_model": str(made), "models": models, "tensors": rules}
    for dtype in (None, *CODES):
        for out in (None, *CODES):
            kinds = {key: value for key, value in (("dtype", dtype), ("out_dtype", out)) if value}
            target = tmp_path / f"{dtype}-{out}"
            merge(parse_recipe(recipe | kinds), target)
            code, got = read_model(target)[NORM]
            expected = decode(encode(values, CODES[stored]), CODES[stored])
            for step in (dtype, out):
                expected = expected if step is None else decode(encode(expected, CODES[step]), CODES[step])
            assert code == CODES[out or dtype or stored]
            assert np.array_equal(np.asarray(decode(np.asarray(got), code), np.float64), expected.astype(np.float64))
