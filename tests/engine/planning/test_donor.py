"""Whose config.json is written, and that it says of layers that moved and of heads what is true of the output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine import make_plan, open_checkpoints, parse_recipe
from engine.errors import PlanError

GEMMA_2 = {"model_type": "gemma2", "num_hidden_layers": 4, "sliding_window": 8, "num_attention_heads": 1}


def model(directory: Path, config: dict[str, Any], *, layers: int = 4, head: bool = False) -> str:
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(layers)]
    names += ["model.embed_tokens.weight", *(["lm_head.weight"] if head else [])]
    directory.mkdir()
    save_file({name: np.ones((2, 2), np.float32) for name in names}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    return str(directory)


def written(data: dict[str, Any]) -> dict[str, Any]:
    recipe = parse_recipe(data)
    return dict(make_plan(recipe, open_checkpoints(recipe.models)).config)


def stacked(source: str, *ranges: tuple[int, int]) -> dict[str, Any]:
    slices = [{"sources": [{"model": source, "layer_range": list(layers)}]} for layers in ranges]
    return {"merge_method": "passthrough", "slices": slices}


def linear(*models: str) -> dict[str, Any]:
    return {"merge_method": "linear", "models": [{"model": m, "parameters": {"weight": 1}} for m in models]}


def test_layers_that_alternate_by_number_keep_their_kind_when_they_move(tmp_path: Path) -> None:
    source = model(tmp_path / "gemma", GEMMA_2)
    config = written(stacked(source, (0, 4), (1, 3)))
    sliding, full = "sliding_attention", "full_attention"
    assert config["layer_types"] == [sliding, full, sliding, full, full, sliding]
    del config["layer_types"]
    assert config == {**GEMMA_2, "num_hidden_layers": 6}


def test_the_kinds_of_a_nested_text_config_are_spelled_out_there(tmp_path: Path) -> None:
    text = {**GEMMA_2, "model_type": "gemma3_text", "num_hidden_layers": 7}
    config = written(stacked(model(tmp_path / "m", {"text_config": text}, layers=7), (5, 7)))
    assert config["text_config"]["layer_types"] == ["full_attention", "sliding_attention"]
    assert "layer_types" not in config


@pytest.mark.parametrize(
    ("config", "ranges"),
    [
        (GEMMA_2, [(0, 2)]),
        ({**GEMMA_2, "sliding_window": None}, [(0, 4), (1, 3)]),
        ({**GEMMA_2, "model_type": "unheard_of"}, [(0, 4), (1, 3)]),
    ],
)
def test_nothing_is_spelled_out_where_layers_stay_or_no_rule_is_known(
    config: dict[str, Any], ranges: list[tuple[int, int]], tmp_path: Path
) -> None:
    assert "layer_types" not in written(stacked(model(tmp_path / "m", config), *ranges))


def test_a_config_that_transformers_refuses_is_named(tmp_path: Path) -> None:
    source = model(tmp_path / "m", {**GEMMA_2, "num_attention_heads": "many"})
    with pytest.raises(
        PlanError, match=rf"{source}: config\.json: transformers refuses it as 'gemma2': .*attention_heads"
    ):
        written(stacked(source, (0, 4), (1, 3)))


@pytest.mark.parametrize("said", [True, False, None])
@pytest.mark.parametrize("head", [True, False])
def test_a_head_that_is_written_is_never_said_to_be_tied(said: bool | None, head: bool, tmp_path: Path) -> None:
    config = {"model_type": "llama", "num_hidden_layers": 4} | ({} if said is None else {"tie_word_embeddings": said})
    models = [model(tmp_path / name, config, head=head) for name in "ab"]
    assert written(linear(*models)).get("tie_word_embeddings") == (False if head else said)


GPTQ = {"quant_method": "gptq", "bits": 4}


@pytest.mark.parametrize("where", ["", "text_config"])
def test_a_dequantised_models_config_is_written_without_its_quantisation(where: str, tmp_path: Path) -> None:
    text = {"num_hidden_layers": 4, "quantization_config": GPTQ}
    config = {"model_type": "llama", **({where: text} if where else text)}
    models = [model(tmp_path / name, config) for name in "ab"]
    recipe = parse_recipe(linear(*models))
    plan = make_plan(recipe, open_checkpoints(recipe.models))
    assert "quantization_config" not in json.dumps(dict(plan.config))
    (said,) = [text for text in plan.warnings if "quantization" in text]
    key = f"{where}.quantization_config" if where else "quantization_config"
    assert said == f"{models[0]}: config.json says {key}, and the output's weights are floats: it is left out."


@pytest.mark.parametrize(
    ("said", "dtype"),
    [
        (GPTQ, np.int32),  # codes, copied
        ({"quant_method": "bitnet", "quantization_mode": "online"}, np.float32),  # of floats, while it computes
        (None, np.float32),
    ],
)
def test_what_is_quantised_keeps_its_config(said: Any, dtype: type, tmp_path: Path) -> None:
    source = model(tmp_path / "m", {"num_hidden_layers": 4, "quantization_config": said})
    arrays = {f"model.layers.{layer}.mlp.up_proj.qweight": np.ones((2, 2), dtype) for layer in range(4)}
    save_file(
        {**arrays, "model.embed_tokens.weight": np.ones((2, 2), np.float32)}, tmp_path / "m" / "model.safetensors"
    )
    recipe = parse_recipe({"merge_method": "passthrough", "models": [{"model": source}]})
    plan = make_plan(recipe, open_checkpoints(recipe.models))
    assert plan.config["quantization_config"] == said
    assert not [text for text in plan.warnings if "quantization" in text]
