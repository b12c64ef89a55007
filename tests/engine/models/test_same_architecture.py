"""Models of different architectures are refused by name, unless their mixture is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine import Options, make_plan, open_checkpoints, parse_recipe
from engine.errors import PlanError


def model(directory: Path, *, rows: int = 4, **config: Any) -> str:
    directory.mkdir()
    save_file({"model.norm.weight": np.ones(rows, np.float32)}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    return str(directory)


def plan(*models: str, **options: Any) -> list[str]:
    """The names of the output's tensors."""
    entries = [{"model": name, "parameters": {"weight": 1}} for name in models]
    recipe = parse_recipe({"merge_method": "linear", "models": entries}, origin="r.yml")
    return [tensor.name for tensor in make_plan(recipe, open_checkpoints(recipe.models), Options(**options)).tensors]


LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}


def test_the_error_names_both_models_with_their_architectures_and_the_flag(tmp_path: Path) -> None:
    names = model(tmp_path / "a", **LLAMA), model(tmp_path / "b", **LLAMA), model(tmp_path / "c", **MISTRAL)
    with pytest.raises(PlanError) as caught:
        plan(*names)
    for words in ("r.yml", "a is LlamaForCausalLM (model_type llama)", "c is MistralForCausalLM", "--allow-crimes"):
        assert words in caught.value.message
    assert plan(*names, allow_mixed=True) == ["model.norm.weight"]


def test_allowed_mixtures_must_still_fit(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"\[4\].*\[5\]"):
        plan(model(tmp_path / "a", **LLAMA), model(tmp_path / "c", rows=5, **MISTRAL), allow_mixed=True)


@pytest.mark.parametrize("config", [{}, {"model_type": "llama"}, {"architectures": ["LlamaForCausalLM"]}])
def test_a_config_that_says_less_agrees_with_one_that_says_more(config: dict[str, Any], tmp_path: Path) -> None:
    assert plan(model(tmp_path / "a", **LLAMA), model(tmp_path / "b", **config)) == ["model.norm.weight"]
