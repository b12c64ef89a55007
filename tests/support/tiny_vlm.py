"""Tiny vision-language models with the tensor names and the config.json of Gemma 3, as the Hub has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.arrays import encode, write_file
from bench.families import base_values, tune_deltas, write_configuration

TEXT, VISION, PROJECTOR = "language_model.", "vision_tower.vision_model.", "multi_modal_projector."
VOCAB, HIDDEN, SIDE = 32, 16, 8
"""Rows of the embedding; width of the text layers; width of the vision layers, and of a head."""


def make_vlm(directory: Path, *, tune: int = 0, text: int = 3, vision: int = 2, dtype: str = "BF16") -> str:
    """One model of a family: 0 is the base, others are fine-tunes of it; `text` and `vision` count its layers."""
    shapes = {**_text(text), **_vision(vision)}
    shapes[PROJECTOR + "mm_input_projection_weight"] = (SIDE, HIDDEN)
    shapes[PROJECTOR + "mm_soft_emb_norm.weight"] = (SIDE,)
    write_configuration(directory, _config(text, vision, dtype), vocab=VOCAB)
    write_file(
        directory / "model.safetensors",
        {name: (dtype, encode(_values(name, shape, tune), dtype)) for name, shape in shapes.items()},
    )
    return str(directory)


def _values(name: str, shape: tuple[int, ...], tune: int) -> Any:
    count = int(np.prod(shape))
    values = base_values(name, 0, count, 7)
    return (values + 30 * tune_deltas(name, 0, count, (7, tune)) if tune else values).reshape(shape)


def _text(layers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            shapes[f"{prefix}{norm}_layernorm.weight"] = (HIDDEN,)
        for name, rows in (("q", 2 * SIDE), ("k", SIDE), ("v", SIDE)):
            shapes[f"{prefix}self_attn.{name}_proj.weight"] = (rows, HIDDEN)
        shapes[f"{prefix}self_attn.o_proj.weight"] = (HIDDEN, 2 * SIDE)
        for name in ("q", "k"):
            shapes[f"{prefix}self_attn.{name}_norm.weight"] = (SIDE,)
        for name in ("gate", "up", "down"):
            shapes[f"{prefix}mlp.{name}_proj.weight"] = (HIDDEN, HIDDEN)
    return {TEXT + name: shape for name, shape in shapes.items()}


def _vision(layers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embedding.weight": (SIDE, 3, 4, 4),
        "embeddings.patch_embedding.bias": (SIDE,),
        "embeddings.position_embedding.weight": (4, SIDE),
    }
    for name in [f"encoder.layers.{layer}.layer_norm{n}" for layer in range(layers) for n in (1, 2)] + [
        "post_layernorm"
    ]:
        shapes |= {f"{name}.weight": (SIDE,), f"{name}.bias": (SIDE,)}
    for layer in range(layers):
        for name in (
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.out_proj",
            "mlp.fc1",
            "mlp.fc2",
        ):
            shapes[f"encoder.layers.{layer}.{name}.weight"] = (SIDE, SIDE)
            shapes[f"encoder.layers.{layer}.{name}.bias"] = (SIDE,)
    return {VISION + name: shape for name, shape in shapes.items()}


def _config(text: int, vision: int, dtype: str) -> dict[str, object]:
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "dtype": {"BF16": "bfloat16", "F32": "float32"}[dtype],
        "mm_tokens_per_image": 4,
        "image_token_index": VOCAB - 1,
        "boi_token_index": VOCAB - 2,
        "eoi_token_index": VOCAB - 3,
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": "gemma3_text",
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "intermediate_size": HIDDEN,
            "num_hidden_layers": text,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": SIDE,
            "layer_types": ["full_attention" if layer % 2 else "sliding_attention" for layer in range(text)],
            "sliding_window": 16,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": SIDE,
            "intermediate_size": SIDE,
            "num_hidden_layers": vision,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 4,
            "vision_use_head": False,
        },
    }
