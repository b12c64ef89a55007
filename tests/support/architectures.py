"""Tiny random models of many architectures, as the Hub has them on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_tasks import make_tokenizer
from transformers import AutoModelForCausalLM

COMMON = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


@dataclass(frozen=True)
class Architecture:
    """One row of the matrix.

    Attributes:
        config: the name of a config class of transformers.
        settings: what of it differs from COMMON; with a `text_config`, what of that does.
        stack: ranges of layers to stack; default: all layers, then all but the first again.
        core: promised by the project, and tested in float32, too; the others are tested under the marker `slow`.
    """

    name: str
    config: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    stack: tuple[tuple[int, int], ...] = ((0, 2), (1, 2))
    core: bool = False

    def save(self, directory: Path, *, seed: int, dtype: torch.dtype, **settings: Any) -> Path:
        """A model with random weights and a tokenizer, under the names that the Hub's checkpoints have."""
        torch.manual_seed(seed)
        given = COMMON | dict(self.settings)
        if "text_config" in self.settings:
            given = {**self.settings, "text_config": COMMON | self.settings["text_config"]}
        config = getattr(transformers, self.config)(**given | settings)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        for value in model.state_dict().values():
            if value.is_floating_point():  # what starts as zeros or ones would look right where it was never filled
                value.add_(0.1 * torch.randn_like(value))
        model.save_pretrained(directory)
        make_tokenizer().save_pretrained(directory)
        return directory


def _core(name: str, config: str, **settings: Any) -> Architecture:
    return Architecture(name, config, settings, core=True)


def _moe(**settings: Any) -> dict[str, Any]:
    return {"moe_intermediate_size": 16, "num_experts_per_tok": 2, **settings}


_MLA = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
_DEEPSEEK = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4}
_DELTA_NET = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8}
_HYBRID = {"layer_types": ["linear_attention", "full_attention"], "linear_value_head_dim": 8, "head_dim": 8}
_VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_GEMMA_3 = {
    "text_config": {"head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "vision_config": {**_VISION, "image_size": 28, "patch_size": 14},
    "mm_tokens_per_image": 4,
}
_JAMBA = {
    "num_experts": 4,
    "mamba_d_state": 4,
    "mamba_dt_rank": 4,
    "use_mamba_kernels": False,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
}

ARCHITECTURES = (
    _core("Llama", "LlamaConfig"),
    _core("Mistral", "MistralConfig", sliding_window=8),
    _core("Qwen2", "Qwen2Config"),
    _core("Qwen3", "Qwen3Config", head_dim=8, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    _core("Gemma 2", "Gemma2Config", head_dim=8, sliding_window=8),
    _core("Phi-3", "Phi3Config"),
    _core("Mixtral", "MixtralConfig", num_local_experts=4),
    Architecture("Cohere", "CohereConfig"),
    Architecture("Cohere 2", "Cohere2Config", {"sliding_window": 8, "sliding_window_pattern": 2}),
    Architecture("DeepSeek V3", "DeepseekV3Config", _moe(**_DEEPSEEK, **_MLA, n_shared_experts=1)),
    Architecture("EXAONE 4", "Exaone4Config", {"sliding_window": 8, "sliding_window_pattern": 2}),
    Architecture("Falcon", "FalconConfig"),
    Architecture("Gemma 3 (text and vision)", "Gemma3Config", _GEMMA_3),
    Architecture("Gemma 3 (text)", "Gemma3TextConfig", {"head_dim": 8, "sliding_window": 8}),
    Architecture("GLM 4", "Glm4Config", {"head_dim": 8}),
    Architecture("GPT-2", "GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    Architecture("GPT-NeoX", "GPTNeoXConfig"),
    Architecture("GPT-OSS", "GptOssConfig", _moe(num_local_experts=4, head_dim=8, sliding_window=8)),
    Architecture("Granite", "GraniteConfig"),
    Architecture("Granite MoE", "GraniteMoeConfig", {"num_local_experts": 4}),
    Architecture("Jamba", "JambaConfig", _JAMBA, stack=((0, 2), (0, 2))),
    Architecture(
        "Llama 4 (text)", "Llama4TextConfig", {"num_local_experts": 2, "head_dim": 8, "intermediate_size_mlp": 48}
    ),
    Architecture("Mamba", "MambaConfig", {"state_size": 4}),
    Architecture("OLMo 2", "Olmo2Config"),
    Architecture("OLMoE", "OlmoeConfig", _moe(num_experts=4)),
    Architecture("OPT", "OPTConfig", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    Architecture("Phi-2", "PhiConfig"),
    Architecture("Qwen3 MoE", "Qwen3MoeConfig", _moe(num_experts=4, head_dim=8)),
    Architecture(
        "Qwen3-Next", "Qwen3NextConfig", _moe(num_experts=4, shared_expert_intermediate_size=16) | _DELTA_NET | _HYBRID
    ),
    Architecture("SmolLM 3", "SmolLM3Config", {"no_rope_layers": [1, 0]}),
    Architecture("StableLM", "StableLmConfig"),
    Architecture("StarCoder 2", "Starcoder2Config"),
)
