"""`model+lora` against PEFT's own merge_and_unload, on adapters that PEFT saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.arrays import from_bf16
from engine import open_checkpoint
from engine.recipes.model_ref import ModelRef

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def llama(dtype: Any) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=True,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config).to(dtype)


def gpt2(dtype: Any) -> Any:
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).to(dtype)


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "attention, mlp and biases": (
        llama,
        {"target_modules": ["q_proj", "v_proj", "down_proj"], "bias": "all", "r": 3, "lora_alpha": 5},
    ),
    "embedding and head, ranks by pattern, rslora": (
        llama,
        {
            "target_modules": ["k_proj", "embed_tokens", "lm_head"],
            "r": 4,
            "rank_pattern": {"layers.1.self_attn.k_proj": 2},
            "alpha_pattern": {"lm_head": 3},
            "use_rslora": True,
        },
    ),
    "whole modules": (llama, {"target_modules": ["o_proj"], "modules_to_save": ["norm", "lm_head"], "r": 2}),
    "Conv1D, square and not": (gpt2, {"target_modules": ["c_attn", "attn.c_proj"], "fan_in_fan_out": True, "r": 3}),
}


def read(ref: ModelRef) -> dict[str, Any]:
    """All tensors of a source as float32, flat."""
    source, tensors = open_checkpoint(ref), {}
    for name, tensor in source.tensors.items():
        buffer = bytearray(tensor.nbytes)
        source.read_into(name, 0, memoryview(buffer))
        is_bf16 = tensor.dtype == "BF16"
        tensors[name] = from_bf16(np.frombuffer(buffer, np.uint16)) if is_bf16 else np.frombuffer(buffer, np.float32)
    return tensors


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("dtype", "step"), [("float32", 2**-22), ("bfloat16", 2**-8)])
@pytest.mark.parametrize("case", CASES)
def test_the_values_are_those_of_pefts_merge(case: str, dtype: str, step: float, tmp_path: Path) -> None:
    make, said = CASES[case]
    torch.manual_seed(0)
    make(getattr(torch, dtype)).save_pretrained(tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=getattr(torch, dtype))
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **said))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad and "base_layer.weight" not in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(tmp_path / "lora")
    theirs = {
        name: value.float().numpy().reshape(-1) for name, value in adapted.merge_and_unload().state_dict().items()
    }
    before = read(ModelRef(str(tmp_path / "model")))
    ours = read(ModelRef(str(tmp_path / "model"), lora=ModelRef(str(tmp_path / "lora"))))
    for name, values in ours.items():
        # PEFT rounds the product to the weight's dtype and adds in it: one rounding more than here; terms may cancel
        bound = step * (np.abs(theirs[name]) + np.abs(theirs[name] - before[name]).max())
        assert (np.abs(values - theirs[name]) <= bound).all(), name
    changed = {name for name in before if (ours[name] != before[name]).any()}
    assert changed == {name for name in before if (theirs[name] != before[name]).any()} != set()
