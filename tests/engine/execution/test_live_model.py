"""Merging into a live transformers model: the same bits as the published files, and a skeleton that must fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import factors, write_adapter
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from engine import make_plan, merge, open_checkpoints, parse_recipe
from engine.digest import of_weights
from engine.errors import PlanError
from engine.execution.binding import Binding
from engine.execution.execute import execute
from engine.execution.sinks import LiveSink


def llama(directory: Path, *, seed: int, tied: bool, layers: int = 2, dtype: torch.dtype = torch.bfloat16) -> Path:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(directory)
    return directory


def ties(base: Path, *models: Path, **top: Any) -> dict[str, Any]:
    entries = [{"model": str(m), "parameters": {"weight": 0.6, "density": 0.5}} for m in models]
    return {"merge_method": "ties", "base_model": str(base), "models": entries, **top}


def skeleton(config: dict[str, Any], dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_config(LlamaConfig.from_dict(config), dtype=dtype).eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("live_dtype", [torch.float32, torch.bfloat16])
def test_live_weights_are_the_published_weights(tied: bool, live_dtype: torch.dtype, tmp_path: Path) -> None:
    models = [llama(tmp_path / str(seed), seed=seed, tied=tied) for seed in range(3)]
    recipe = parse_recipe(ties(*models))
    checkpoints = open_checkpoints(recipe.models)
    plan = make_plan(recipe, checkpoints)
    live = skeleton(dict(plan.config), live_dtype)
    executed = execute(plan, checkpoints, LiveSink(Binding.build(live, plan)))
    result = merge(recipe, tmp_path / "out")
    assert of_weights(executed.tensor_digests(plan)) == result.weights_digest
    loaded, info = AutoModelForCausalLM.from_pretrained(result.out, dtype=live_dtype, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, live.state_dict()[name]), name
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, live(tokens).logits)
        assert loaded.generate(tokens, max_new_tokens=3, do_sample=False).shape == (1, 15)


def test_adapters_and_filled_up_vocabularies_reach_the_live_model_as_they_are_published(tmp_path: Path) -> None:
    base, short = (llama(tmp_path / str(seed), seed=seed, tied=False) for seed in (1, 2))
    model = LlamaForCausalLM.from_pretrained(short, dtype=torch.bfloat16)
    model.resize_token_embeddings(91)
    model.save_pretrained(short)
    lora = write_adapter(tmp_path / "lora", factors("model.layers.1.self_attn.q_proj", 32, 32))
    recipe = parse_recipe(ties(base, Path(f"{base}+{lora}"), short))
    checkpoints = open_checkpoints(recipe.models)
    plan = make_plan(recipe, checkpoints)
    live = skeleton(dict(plan.config), torch.bfloat16)
    execute(plan, checkpoints, LiveSink(Binding.build(live, plan)))
    loaded, info = AutoModelForCausalLM.from_pretrained(
        merge(recipe, tmp_path / "out").out, dtype=torch.bfloat16, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.vocab_size == 96
    assert all(torch.equal(value, live.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("live_dtype", [torch.float32, torch.bfloat16])
def test_tensors_that_are_only_copied_reach_the_live_model_as_values(live_dtype: torch.dtype, tmp_path: Path) -> None:
    model = llama(tmp_path / "model", seed=1, tied=True)
    recipe = parse_recipe({"merge_method": "passthrough", "models": [{"model": str(model)}]})
    checkpoints = open_checkpoints(recipe.models)
    plan = make_plan(recipe, checkpoints)
    live = skeleton(dict(plan.config), live_dtype)
    execute(plan, checkpoints, LiveSink(Binding.build(live, plan)))
    for name, value in AutoModelForCausalLM.from_pretrained(model, dtype=live_dtype).state_dict().items():
        assert torch.equal(value, live.state_dict()[name]), name


def test_a_tied_and_an_untied_model_give_an_untied_one_that_loads(tmp_path: Path) -> None:
    base, tune = llama(tmp_path / "base", seed=0, tied=True), llama(tmp_path / "tune", seed=1, tied=False)
    result = merge(parse_recipe(ties(base, tune)), tmp_path / "out")
    loaded, info = AutoModelForCausalLM.from_pretrained(result.out, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.tie_word_embeddings is False
    assert not torch.equal(loaded.lm_head.weight, loaded.model.embed_tokens.weight)


def test_a_skeleton_of_another_architecture_is_refused(tmp_path: Path) -> None:
    base, tune = (llama(tmp_path / str(seed), seed=seed, tied=False) for seed in range(2))
    recipe = parse_recipe(ties(base, tune))
    plan = make_plan(recipe, open_checkpoints(recipe.models))
    config = dict(plan.config)
    with pytest.raises(PlanError, match="is filled by no output tensor"):
        Binding.build(skeleton({**config, "num_hidden_layers": 3}, torch.float32), plan)
    with pytest.raises(PlanError, match="has no parameter"):
        Binding.build(skeleton({**config, "num_hidden_layers": 1}, torch.float32), plan)
    with pytest.raises(PlanError, match="share one live parameter"):
        Binding.build(skeleton({**config, "tie_word_embeddings": True}, torch.float32), plan)
    with pytest.raises(PlanError, match=r"is \[96, 32\] in the recipe's output and \[100, 32\]"):
        Binding.build(skeleton({**config, "vocab_size": 100}, torch.float32), plan)


def test_a_binding_knows_which_plans_it_fits(tmp_path: Path) -> None:
    base, tune, deep = (
        llama(tmp_path / str(seed), seed=seed, tied=True, layers=layers) for seed, layers in ((0, 2), (1, 2), (2, 3))
    )
    plans = []
    for models in ((base, tune), (deep, deep)):
        recipe = parse_recipe(
            {"merge_method": "linear", "models": [{"model": str(models[0]), "parameters": {"weight": 1}}]}
        )
        plans.append(make_plan(recipe, open_checkpoints(recipe.models)))
    binding = Binding.build(skeleton(dict(plans[0].config), torch.float32), plans[0])
    assert binding.fits(plans[0])
    assert not binding.fits(plans[1])
