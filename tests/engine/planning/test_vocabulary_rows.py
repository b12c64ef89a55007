"""Vocabularies of different heights: as tall as the tokenizer's model, which lends the rows that others do not have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends import recipe_of
from safetensors.numpy import load_file
from tiny_models import EMBED, HEAD, LAYER, vocabulary_model, write_model

from engine import Options, make_plan, merge, open_checkpoints, parse_recipe, recipe_hash
from engine.errors import NotFinite, PlanError
from engine.execution.scan import scan

METHODS = ("linear", "slerp", "task_arithmetic", "ties", "dare_ties")
WIDE = 1 << 14  # 16 rows are a block


def made(out: Path) -> dict[str, Any]:
    return load_file(out / "model.safetensors")


def filled_up(directory: Path, short: Path, tall: Path) -> Path:
    """`short` with the rows that it lacks taken from `tall`."""
    rows, others = load_file(short / "model.safetensors"), load_file(tall / "model.safetensors")
    for name in (EMBED, HEAD):
        rows[name] = np.concatenate([rows[name], others[name][len(rows[name]) :].astype(rows[name].dtype)])
    return write_model(directory, rows, vocab_size=len(rows[EMBED]))


def cut_off(directory: Path, tall: Path, rows: int) -> Path:
    tensors = {
        name: v[:rows] if name in (EMBED, HEAD) else v for name, v in load_file(tall / "model.safetensors").items()
    }
    return write_model(directory, tensors, vocab_size=rows)


@pytest.mark.parametrize("arithmetic", ["kernel", "definition"])
@pytest.mark.parametrize("method", METHODS)
def test_a_short_vocabulary_merges_as_if_it_had_been_filled_up_from_the_base(
    method: str, arithmetic: Any, tmp_path: Path
) -> None:
    base = vocabulary_model(tmp_path / "base", rows=18, columns=WIDE, seed=1)
    short = [vocabulary_model(tmp_path / f"short-{n}", rows=n, columns=WIDE, seed=n) for n in (10, 17)]
    full = [filled_up(tmp_path / f"full-{n}", path, base) for n, path in enumerate(short)]
    options = Options(arithmetic=arithmetic, threads=2, tile_bytes=1)
    digests = set()
    for number, sources in enumerate((short, full)):
        recipe = recipe_of(method, (base, *sources))
        if method == "linear":
            recipe = parse_recipe({**_data(base, *sources), "base_model": str(base)})
        digests.add(merge(recipe, tmp_path / str(number), options=options).weights_digest)
    assert len(digests) == 1


def _data(*models: Path, **top: Any) -> dict[str, Any]:
    return {"merge_method": "linear", "models": [{"model": str(m), "parameters": {"weight": 1}} for m in models], **top}


def test_a_tall_vocabulary_loses_the_rows_that_the_tokenizers_model_does_not_have(tmp_path: Path) -> None:
    base, tall = (vocabulary_model(tmp_path / str(rows), rows=rows, seed=rows) for rows in (10, 13))
    cut = cut_off(tmp_path / "cut", tall, 10)
    results = [merge(parse_recipe(_data(base, model)), tmp_path / f"out-{model.name}") for model in (tall, cut)]
    assert results[0].weights_digest == results[1].weights_digest
    assert json.loads((results[0].out / "config.json").read_text())["vocab_size"] == 10


def test_new_tokens_of_the_tokenizers_model_keep_their_rows_and_config_json_counts_them(tmp_path: Path) -> None:
    base = vocabulary_model(tmp_path / "base", rows=10, seed=1)
    tune, other = (vocabulary_model(tmp_path / f"{rows}", rows=rows, seed=rows) for rows in (13, 9))
    (tune / "tokenizer_config.json").write_text("{}")
    models = [{"model": str(m), "parameters": {"weight": 0.5, "density": 0.5}} for m in (tune, other)]
    data = {"merge_method": "ties", "base_model": str(base), "models": models, "tokenizer_source": str(tune)}
    out = merge(parse_recipe(data), tmp_path / "out").out
    for name in (EMBED, HEAD):
        assert (made(out)[name][10:] == load_file(tune / "model.safetensors")[name][10:]).all()
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 13


def test_a_stack_of_models_of_two_heights_has_one_height(tmp_path: Path) -> None:
    tall, short = (vocabulary_model(tmp_path / str(rows), rows=rows, seed=rows) for rows in (12, 10))
    slices = [{"sources": [{"model": str(m), "layer_range": [0, 1]}]} for m in (tall, short)]
    out = merge(parse_recipe({"merge_method": "passthrough", "slices": slices}), tmp_path / "out").out
    own, lent = (load_file(model / "model.safetensors")[HEAD] for model in (short, tall))
    assert (made(out)[HEAD] == np.concatenate([own, lent[10:]])).all()
    assert (made(out)[EMBED] == load_file(tall / "model.safetensors")[EMBED]).all()


def test_a_tied_model_lends_the_rows_of_its_embedding(tmp_path: Path) -> None:
    tied = vocabulary_model(tmp_path / "tied", rows=12, seed=1, tied=True)
    short = vocabulary_model(tmp_path / "short", rows=10, seed=2)
    out = merge(parse_recipe(_data(tied, short)), tmp_path / "out").out
    assert (made(out)[HEAD][10:] == load_file(tied / "model.safetensors")[EMBED][10:]).all()


def test_the_plan_says_which_rows_come_from_where(tmp_path: Path) -> None:
    paths = [vocabulary_model(tmp_path / name, rows=rows) for name, rows in (("base", 12), ("short", 10), ("tall", 13))]
    recipe = parse_recipe(_data(*paths), origin="r.yml")
    checkpoints = open_checkpoints(recipe.models)
    plan = make_plan(recipe, checkpoints)
    base, short, tall = paths
    begin = f"r.yml: the vocabulary has 12 rows, as in {base}, whose tokenizer the output gets;"
    assert list(plan.warnings) == [
        f"{begin} {short} has 10: the other 2 are read from {base}.",
        f"{begin} {tall} has 13: its last 1 are left out.",
    ]
    assert not plan.left_out
    assert scan(plan, checkpoints) == []
    assert recipe_hash(plan, checkpoints) != recipe_hash(make_plan(parse_recipe(_data(base)), checkpoints), checkpoints)


def test_formats_may_differ_between_the_rows_and_those_that_fill_them_up(tmp_path: Path) -> None:
    tall = vocabulary_model(tmp_path / "tall", rows=12, seed=1, dtype=np.float32)
    short = vocabulary_model(tmp_path / "short", rows=10, seed=2, dtype=np.float16)
    data = {"merge_method": "passthrough", "models": [{"model": str(short)}], "base_model": str(tall)}
    values = made(merge(parse_recipe({**data, "out_dtype": "float32"}), tmp_path / "out").out)[EMBED]
    own, lent = (load_file(model / "model.safetensors")[EMBED] for model in (short, tall))
    assert (values == np.concatenate([own.astype(np.float32), lent[10:]])).all()


def test_a_nan_in_a_lent_row_is_the_lenders(tmp_path: Path) -> None:
    tall, short = (vocabulary_model(tmp_path / str(rows), rows=rows) for rows in (12, 10))
    tensors = load_file(tall / "model.safetensors")
    tensors[EMBED][11, 0] = np.nan
    bad = write_model(tmp_path / "bad", tensors)
    data = {"merge_method": "passthrough", "models": [{"model": str(short)}], "base_model": str(bad)}
    with pytest.raises(NotFinite, match=r"bad: tensor 'model.embed_tokens.weight' holds 1 NaN or Inf"):
        merge(parse_recipe(data), tmp_path / "out")


@pytest.mark.parametrize("name", [EMBED, LAYER.format(0)])
def test_other_differences_of_shape_are_refused(name: str, tmp_path: Path) -> None:
    base = vocabulary_model(tmp_path / "base", rows=10)
    tensors = load_file(base / "model.safetensors")
    tensors[name] = tensors[name][:, :3] if name == EMBED else tensors[name][:3]
    with pytest.raises(PlanError, match=f"tensor '{name}' is .* models of different shape cannot be merged"):
        merge(parse_recipe(_data(base, write_model(tmp_path / "other", tensors))), tmp_path / "out")
