"""The config.json of the output: the donor's, with depth, dtype and tying as they are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from engine import architecture
from engine.plan import OutputTensor
from engine.recipe import ModelRef, Recipe, SliceSource
from engine.sorted_model import HEAD, SortedModel
from engine.views import FLOATS


def config_to_write(
    recipe: Recipe, models: Mapping[ModelRef, SortedModel], tensors: Iterable[OutputTensor]
) -> dict[str, Any]:
    """The donor's config.json (base_model's, else the first source's), made to fit `tensors`, so that it loads them."""
    tensors = list(tensors)
    config = models[recipe.donor].checkpoint.config
    return architecture.output_config(
        config,
        layers=_donor_layers(recipe),
        dtype=recipe.out_dtype or recipe.dtype or _stored_dtype(config, tensors),
        tied=_tied(models, models[recipe.donor], {tensor.name for tensor in tensors}),
        vocab_size=None,
    )


def layers_of(source: SliceSource) -> tuple[int, int]:
    """[start, end) of a source whose layers are spelled out."""
    assert source.layers is not None
    return source.layers


def _donor_layers(recipe: Recipe) -> list[int] | None:
    """For every layer of the output the donor's, or the first source's where the donor has none there; None: as is."""
    if not any(source.layers is not None for part in recipe.slices for source in part.sources):
        return None
    layers: list[int] = []
    for part in recipe.slices:
        own = [source for source in part.sources if source.model == recipe.donor]
        layers.extend(range(*layers_of((own or list(part.sources))[0])))
    return layers


def _tied(models: Mapping[ModelRef, SortedModel], donor: SortedModel, written: set[str]) -> bool | None:
    """What the donor's config must say about tying; None: what it says already."""
    tied = [model.tied for model in models.values()]
    if HEAD in written:
        return None if all(tied) else False
    return True if any(tied) and not donor.tied else None


def _stored_dtype(config: Mapping[str, Any], tensors: list[OutputTensor]) -> str | None:
    """The dtype of most elements, where config.json says one that no tensor has: transformers would cast to it."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.elements
    said = FLOATS.get(str(config.get("dtype", config.get("torch_dtype"))))
    if said is None or said in sizes:
        return None
    return next((name for code, _ in sizes.most_common() for name, other in FLOATS.items() if other == code), None)
