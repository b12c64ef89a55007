"""Huge checkpoints that take no disk: real headers and configurations, and files truncated to their full size.

All that a plan reads is there; the data is holes, which read as zeros. Shapes are those of the models' config.json on
the Hub (meta-llama/Llama-3.1-70B and -405B; deepseek-ai/DeepSeek-V3 without its prediction layer, stored as bfloat16).

    python -m bench.sparse 671B DIRECTORY          makes a base and two fine-tunes there
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.arrays import NUMPY_OF, header
from bench.families import Family, Shape, llama_config, tensor_shapes, write_configuration

SHARD_BYTES = 5_000_000_000
_SMALL_VOCABULARY = 64  # of the tokenizer's files: they only have to be there

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name → dtype, shape."""

LLAMAS = {
    "70B": Shape(hidden=8192, layers=80, mlp=28672, heads=64, kv_heads=8, vocab=128256),
    "405B": Shape(hidden=16384, layers=126, mlp=53248, heads=128, kv_heads=8, vocab=128256),
}


@dataclass(frozen=True)
class DeepSeek:
    """DeepSeek-V3's dimensions; fewer layers and experts make a smaller model of the same kind."""

    layers: int = 61
    experts: int = 256
    hidden: int = 7168
    dense: int = 3
    mlp: int = 18432
    expert_mlp: int = 2048
    heads: int = 128
    vocab: int = 129280

    def tensors(self) -> Tensors:
        """Every tensor in the order of the files."""
        h = self.hidden
        named: dict[str, tuple[str, tuple[int, ...]]] = {"model.embed_tokens.weight": ("BF16", (self.vocab, h))}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            for name, shape in self._attention().items():
                named[f"{prefix}self_attn.{name}.weight"] = ("BF16", shape)
            if layer < self.dense:
                named |= _mlp(f"{prefix}mlp.", h, self.mlp)
            else:
                for expert in range(self.experts):
                    named |= _mlp(f"{prefix}mlp.experts.{expert}.", h, self.expert_mlp)
                named |= _mlp(f"{prefix}mlp.shared_experts.", h, self.expert_mlp)
                named[f"{prefix}mlp.gate.weight"] = ("BF16", (self.experts, h))
                named[f"{prefix}mlp.gate.e_score_correction_bias"] = ("F32", (self.experts,))
            for norm in ("input_layernorm", "post_attention_layernorm"):
                named[f"{prefix}{norm}.weight"] = ("BF16", (h,))
        return named | {"model.norm.weight": ("BF16", (h,)), "lm_head.weight": ("BF16", (self.vocab, h))}

    def _attention(self) -> dict[str, tuple[int, ...]]:
        """Latent attention: ranks 1536 and 512, heads of 128 with 64 more for positions."""
        h, heads = self.hidden, self.heads
        return {
            "q_a_proj": (1536, h),
            "q_a_layernorm": (1536,),
            "q_b_proj": (heads * 192, 1536),
            "kv_a_proj_with_mqa": (576, h),
            "kv_a_layernorm": (512,),
            "kv_b_proj": (heads * 256, 512),
            "o_proj": (h, heads * 128),
        }

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            "hidden_size": self.hidden,
            "intermediate_size": self.mlp,
            "moe_intermediate_size": self.expert_mlp,
            "num_hidden_layers": self.layers,
            "num_nextn_predict_layers": 0,
            "first_k_dense_replace": self.dense,
            "n_routed_experts": self.experts,
            "n_shared_experts": 1,
            "num_attention_heads": self.heads,
            "vocab_size": self.vocab,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }


SIZES = (*LLAMAS, "671B")


def sparse_family(directory: Path, size: str | DeepSeek, *, tunes: int = 2) -> Family:
    """Make `directory`/{base,tune1,…} of this size, headers only, all alike."""
    family = Family(directory / "base", tuple(directory / f"tune{i + 1}" for i in range(tunes)))
    if isinstance(size, str) and size in LLAMAS:
        shape = LLAMAS[size]
        config = llama_config(shape, "BF16")
        tensors: Tensors = {name: ("BF16", dims) for name, dims in tensor_shapes(shape).items()}
    else:
        model = size if isinstance(size, DeepSeek) else DeepSeek()
        config, tensors = model.config(), model.tensors()
    shards = _shards(tensors)
    for place in family.models:
        write_configuration(place, config, vocab=_SMALL_VOCABULARY)
        weight_map = {}
        for number, names in enumerate(shards, 1):
            file = f"model-{number:05}-of-{len(shards):05}.safetensors"
            _write_sparse(place / file, {name: tensors[name] for name in names})
            weight_map |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": sum(map(_nbytes, tensors.values()))}, "weight_map": weight_map}
        (place / "model.safetensors.index.json").write_text(json.dumps(index))
    return family


def _mlp(prefix: str, hidden: int, mlp: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    shapes = {"gate_proj": (mlp, hidden), "up_proj": (mlp, hidden), "down_proj": (hidden, mlp)}
    return {f"{prefix}{name}.weight": ("BF16", shape) for name, shape in shapes.items()}


def _nbytes(tensor: tuple[str, tuple[int, ...]]) -> int:
    dtype, shape = tensor
    elements = 1
    for size in shape:
        elements *= size
    return elements * NUMPY_OF[dtype].itemsize


def _shards(tensors: Tensors) -> list[list[str]]:
    """Names by file, filled in order up to SHARD_BYTES."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if groups[-1] and filled + _nbytes(tensor) > SHARD_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += _nbytes(tensor)
    return groups


def _write_sparse(path: Path, tensors: Tensors) -> None:
    head, _ = header([(name, dtype, shape) for name, (dtype, shape) in tensors.items()])
    path.write_bytes(head)
    os.truncate(path, len(head) + sum(map(_nbytes, tensors.values())))


if __name__ == "__main__":
    print(*sparse_family(Path(sys.argv[2]), sys.argv[1]).models, sep="\n")
