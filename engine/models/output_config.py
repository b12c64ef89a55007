"""The config.json that fits what is written: depth and all that is said layer by layer, dtype, tying, vocabulary."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import PlanError
from engine.models.architecture import LAYER_COUNTS, layer_count, parts_of
from engine.models.modules import AUDIO, DECODER, ENCODER, VISION

INDEX_LISTS = ("mlp_only_layers", "moe_layers", "full_attn_idxs", "cross_attention_layers", "hybrid_layer_ids")
"""Lists of the numbers of some layers; every other list with as many items as layers has one item per layer."""
PER_LAYER_LISTS = ("attn_type_list", "indexer_types", "intermediate_size", "num_key_value_heads", "num_kv_heads")
"""Lists with one item per layer whose name does not say `layer`."""
LAYER_BOUNDS = ("max_window_layers", "first_k_dense_replace")
"""Numbers of layers, from the first on, that are of another kind than the rest."""
LAYER_PERIODS = {
    **dict.fromkeys(("attn_layer_period", "expert_layer_period", "decoder_sparse_step", "moe_layer_interval")),
    **dict.fromkeys(("sliding_window_pattern", "_sliding_window_pattern", "full_attention_interval"), "layer_types"),
    "global_attn_every_n_layers": "layer_types",
    "interleave_moe_layer_step": "moe_layers",
    "no_rope_layer_interval": "no_rope_layers",
}
"""Periods that say of what kind a layer is by its number, and the list that says it instead, where it is there."""

OTHER_COUNTS: dict[str, tuple[str, tuple[str, ...]]] = {
    VISION: ("vision_config", (*LAYER_COUNTS, "depth")),
    AUDIO: ("audio_config", (*LAYER_COUNTS, "encoder_layers")),
    ENCODER: ("", ("encoder_layers", "num_encoder_layers", "num_layers")),
    DECODER: ("", ("decoder_layers", "num_decoder_layers")),
}
"""Where the layers of other modules (`modules`) are counted: in which nested config, under one of which keys."""


def output_config(
    config: Mapping[str, Any],
    *,
    layers: Sequence[int] | None,
    dtype: str | None,
    tied: bool | None,
    vocab_size: int | None,
    others: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """The config.json to write: `config` (of the donor) with what the merge changed; None leaves things as they are.

    Args:
        config: the donor's.
        layers: for every layer of the output the donor's layer it stands for; sets the layer count and takes the
            items of per-layer lists (`layer_types` ...) along.
        dtype: torch's name of the dtype of most tensors.
        tied: whether the output head is the token embedding.
        vocab_size: rows of the token embedding.
        others: like `layers`, for the layers of other modules, by the module's name in `engine.models.modules`.

    Raises PlanError where config.json cannot say what kinds `layers` are of: a list has no item for one of them, or
    the kind follows from the layer's number (LAYER_BOUNDS, LAYER_PERIODS) and the layers do not fit their new ones.
    """
    result = copy.deepcopy(dict(config))
    _, count = layer_count(config)
    for _, part in parts_of(result):
        if layers is not None and count is not None:
            _set_layers(part, count, layers)
        _replace(part, {"vocab_size": vocab_size, "tie_word_embeddings": tied})
    for part in (result, *(value for name, value in result.items() if name.endswith("_config"))):
        if isinstance(part, dict):
            _replace(part, {"dtype": dtype, "torch_dtype": dtype})
    for role, chosen in (others or {}).items():
        _set_other_layers(result, role, chosen)
    _say(result, layers=None if layers is None or count is not None else len(layers), dtype=dtype, tied=tied)
    return result


def _say(config: dict[str, Any], *, layers: int | None, dtype: str | None, tied: bool | None) -> None:
    """What a class takes these for where they are not said differs, so they are said."""
    if layers is not None:
        config["num_hidden_layers"] = layers
    if dtype is not None and not {"dtype", "torch_dtype"} & config.keys():
        config["dtype"] = dtype
    if tied is not None:
        config["tie_word_embeddings"] = tied


def _replace(config: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Set the keys that the config has already and that have a value."""
    config.update({name: value for name, value in values.items() if name in config and value is not None})


def _set_layers(config: dict[str, Any], count: int, layers: Sequence[int]) -> None:
    """Adapt one (sub-)config: its layer count, if it has one, and everything that is counted by layers."""
    if not any(config.get(name) == count for name in LAYER_COUNTS):
        return
    _check_periods(config, layers)
    for name, value in config.items():
        if name in LAYER_COUNTS and value == count:
            config[name] = len(layers)
        elif name in LAYER_BOUNDS and isinstance(value, int):
            config[name] = _rebound(name, value, layers)
        elif isinstance(value, list):
            config[name] = _relisted(name, value, count, layers)


def _set_other_layers(config: dict[str, Any], role: str, layers: Sequence[int]) -> None:
    """Adapt what is said about the layers of a module that is not the one counted on top."""
    nested, keys = OTHER_COUNTS.get(role, ("", ()))
    part = config.get(nested) if nested else config
    key = next((key for key in keys if isinstance(part, dict) and isinstance(part.get(key), int)), None)
    if not isinstance(part, dict) or key is None:
        raise PlanError(f"config.json does not say how many layers {role} has, so no others can be chosen for it.")
    lists = {name: value for name, value in part.items() if nested and isinstance(value, list)}
    part.update({name: _relisted(name, value, part[key], layers) for name, value in lists.items()})
    # of a model of two sides, the count without a side is the encoder's
    twins = [name for name in LAYER_COUNTS if role == ENCODER and part.get(name) == part[key]]
    part.update(dict.fromkeys((key, *twins), len(layers)))


def _relisted(name: str, items: list[Any], count: int, layers: Sequence[int]) -> list[Any]:
    """A list of the config after the layers were chosen anew."""
    unknown = "layer" in name and name not in INDEX_LISTS
    if name in INDEX_LISTS or (unknown and items == list(range(count))):
        return [index for index, layer in enumerate(layers) if layer in items]
    if len(items) == count and (unknown or name in PER_LAYER_LISTS):
        if layers and max(layers) >= count:
            raise PlanError(
                f"config.json: {name} describes {count} layers, and the output takes layer {max(layers)} of a deeper "
                "model. Make the deeper model the base_model."
            )
        return [items[layer] for layer in layers]
    return items


def _rebound(name: str, bound: int, layers: Sequence[int]) -> int:
    """How many layers, from the first on, are now those that the donor has below `bound`."""
    first = next((place for place, layer in enumerate(layers) if layer >= bound), len(layers))
    later = next((place for place in range(first, len(layers)) if layers[place] < bound), None)
    # a window bound without effect (use_sliding_window: false) is common, so only the other one is worth an error
    if later is not None and name != "max_window_layers":
        raise PlanError(
            f"config.json: {name} = {bound} says that the first layers are of another kind than the rest, and the "
            f"output has layer {layers[later]} at place {later}, behind layer {layers[first]}. Keep them in front."
        )
    return first


def _check_periods(config: Mapping[str, Any], layers: Sequence[int]) -> None:
    """PlanError where a layer's kind follows from its number alone and a layer gets a number of another kind."""
    for name, instead in LAYER_PERIODS.items():
        period = config.get(name)
        if not isinstance(period, int) or period < 2 or (instead and config.get(instead)):
            continue
        moved = next((place for place, layer in enumerate(layers) if (layer - place) % period), None)
        if moved is not None:
            raise PlanError(
                f"config.json: {name} = {period} says by a layer's number of what kind it is, and the output has layer "
                f"{layers[moved]} at place {moved}. Choose slices that move layers by multiples of {period}."
            )
