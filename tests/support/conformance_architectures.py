"""Families of several small architectures for the drawn recipes: names and shapes are transformers', values our own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.arrays import encode, read_model, write_file
from bench.families import base_values, tune_deltas, write_configuration

LAYERS = 4
_COMMON = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("F32", "LlamaConfig", {}),
    "llama tied": ("BF16", "LlamaConfig", {"tie_word_embeddings": True}),
    "mistral": ("BF16", "MistralConfig", {}),
    "qwen2": ("F32", "Qwen2Config", {"tie_word_embeddings": False}),
    "qwen3": ("BF16", "Qwen3Config", {"tie_word_embeddings": False}),
    "gemma2": ("F32", "Gemma2Config", {}),
    "phi3": ("F16", "Phi3Config", {}),
}
"""Family → the dtype it is stored in, its config's class in transformers, and what differs from the others."""


def make(family: str, directory: Path) -> dict[str, Path]:
    """base, its fine-tunes a, b, c, and u of other weights, as transformers would save them."""
    import torch
    import transformers

    dtype, config_class, settings = FAMILIES[family]
    config = getattr(transformers, config_class)(**_COMMON | settings)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(directory / "made")
    shapes = {name: stored.shape for name, (_, stored) in read_model(directory / "made").items()}
    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    written = json.loads((directory / "made" / "config.json").read_text()) | {"dtype": names[dtype]}
    models = {}
    for number, name in enumerate(("base", "a", "b", "c", "u")):
        models[name] = directory / name
        write_configuration(models[name], written, vocab=64)
        values = {tensor: _values(tensor, shape, number) for tensor, shape in shapes.items()}
        write_file(models[name] / "model.safetensors", {t: (dtype, encode(v, dtype)) for t, v in values.items()})
    return models


def _values(tensor: str, shape: tuple[int, ...], number: int) -> Any:
    elements = int(np.prod(shape))
    values = base_values(tensor, 0, elements, 7 if number < 4 else 8)
    if 0 < number < 4:
        values = values + tune_deltas(tensor, 0, elements, (7, number))
    return values.reshape(shape)


MAKERS = {family: partial(make, family) for family in FAMILIES}
