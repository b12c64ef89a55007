"""A family made to break tiling: one-element tensors, rows that divide nothing, one tensor of 40 M elements.

Used by the bit-equality tests ("the same bytes for any tile size, threads, workers") and by docs/bits.md.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from bench.arrays import Array, encode, write_file
from bench.families import CHUNK, Family, Shape, base_values, llama_config, tune_deltas, write_configuration

GIANT = (5003, 8009)  # 40 069 027 elements; neither side divides 2^18
_LAYER: dict[str, tuple[int, ...]] = {
    "self_attn.q_proj.weight": (521, 509),  # 1.01 blocks of 2^18
    "self_attn.odd_rows.weight": (3, 262_147),  # each row a little longer than a block
    "mlp.up_proj.weight": (1009, 509),
    "mlp.down_proj.weight": (509, 1009),
    "input_layernorm.weight": (509,),
    "self_attn.scale": (1,),
    "self_attn.gate": (),
    "self_attn.block": (262_144,),  # exactly one block
    "self_attn.block_and_one": (262_145,),
    "conv.weight": (7, 5, 3),
}
_MIXED = {"input_layernorm.weight": "F32", "mlp.up_proj.weight": "F16", "mlp.down_proj.weight": "F32"}


def torture_tensors(*, mixed: bool, giant: bool = True) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name → (dtype, shape). `mixed` adds float32, float16, integer, bool and empty tensors to the bfloat16 ones."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    if giant:
        tensors["model.embed_tokens.weight"] = ("BF16", GIANT)
    for layer in range(2):
        for suffix, shape in _LAYER.items():
            if layer and suffix.endswith("odd_rows.weight"):
                continue  # layers need not be alike
            dtype = _MIXED.get(suffix, "BF16") if mixed else "BF16"
            tensors[f"model.layers.{layer}.{suffix}"] = (dtype, shape)
    if mixed:
        tensors["model.position_ids"] = ("I64", (1, 77))
        tensors["model.mask"] = ("BOOL", (11,))
        tensors["model.empty"] = ("F32", (0, 4))
    tensors["model.norm.weight"] = ("F32" if mixed else "BF16", (509,))
    return tensors


def torture_family(directory: Path, *, mixed: bool = False, giant: bool = True, seed: int = 7) -> Family:
    """Make (or reuse) a base and two fine-tunes under `directory`; 80 MB a model with the giant, 5 MB without."""
    family = Family(directory / "base", (directory / "tune1", directory / "tune2"))
    stamp = {"mixed": mixed, "giant": giant, "seed": seed, "layer": sorted(map(str, _LAYER.items()))}
    stamp_file = directory / "family.json"
    if stamp_file.exists() and json.loads(stamp_file.read_text()) == stamp:
        return family
    shutil.rmtree(directory, ignore_errors=True)
    shape = Shape(hidden=509, layers=2, mlp=1009, heads=1, kv_heads=1, vocab=GIANT[0], tied=True)
    for position, model in enumerate(family.models):
        write_configuration(model, llama_config(shape, "BF16"), vocab=64)
        tensors = torture_tensors(mixed=mixed, giant=giant)
        stored = {
            name: (dtype, _values(name, dtype, size, (seed, position))) for name, (dtype, size) in tensors.items()
        }
        write_file(model / "model.safetensors", stored)
    stamp_file.write_text(json.dumps(stamp))
    return family


def _values(name: str, dtype: str, shape: tuple[int, ...], key: tuple[int, int]) -> Array:
    elements = int(np.prod(shape, dtype=np.int64))
    if dtype in ("I64", "BOOL"):  # equal in all models: only then can they be copied
        return encode(np.arange(elements) % 2 if dtype == "BOOL" else np.arange(elements), dtype).reshape(shape)
    seed, position = key
    stored = []
    for start in range(0, elements, CHUNK):
        count = min(CHUNK, elements - start)
        values = base_values(name, start, count, seed)
        stored.append(encode(values if position == 0 else values + tune_deltas(name, start, count, key), dtype))
    return (np.concatenate(stored) if stored else encode(np.zeros(0), dtype)).reshape(shape)
