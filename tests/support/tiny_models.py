"""Models on disk of a few tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

LAYER = "model.layers.{}.self_attn.q_proj.weight"
EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def write_model(directory: Path, arrays: Mapping[str, Any], **config: Any) -> Path:
    """A model of these tensors; what config.json says of it beside model_type and one layer."""
    directory.mkdir(parents=True)
    save_file(dict(arrays), directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 1, **config}))
    return directory


def vocabulary_model(
    directory: Path, *, rows: int, columns: int = 8, seed: int = 0, dtype: type = np.float32, tied: bool = False
) -> Path:
    """One layer and a vocabulary of so many rows; values are keyed by seed, tensor and row, whatever the height."""
    shapes = {EMBED: (rows, columns), LAYER.format(0): (4, 4), NORM: (8,)} | ({} if tied else {HEAD: (rows, columns)})
    arrays = {}
    for number, (name, shape) in enumerate(shapes.items()):
        random = np.random.default_rng([seed, number])
        arrays[name] = random.normal(size=shape).astype(dtype)
    return write_model(directory, arrays, vocab_size=rows, tie_word_embeddings=tied)
