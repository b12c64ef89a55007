"""The config.json of the output: the donor's, with depth, dtype and tying as they are written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from tempfile import NamedTemporaryFile
from typing import Any

from engine.errors import PlanError
from engine.models.architecture import NESTED_CONFIGS, has_head, is_vocabulary, layer_count, parts_of
from engine.models.modules import DECODER, ENCODER
from engine.models.output_config import LAYER_PERIODS, output_config
from engine.models.sorted_model import SortedModel
from engine.models.views import FLOATS
from engine.planning.plan import OutputTensor
from engine.planning.targets import Targets
from engine.recipes.recipe import ModelRef, Module, Recipe

QUANTISATION = "quantization_config"


def config_to_write(
    recipe: Recipe, models: Mapping[ModelRef, SortedModel], targets: Targets, tensors: Iterable[OutputTensor]
) -> dict[str, Any]:
    """The donor's config.json (base_model's, else the first source's), made to fit `tensors`, so that it loads them."""
    tensors = list(tensors)
    donor = models[recipe.donor]
    depths = {module.name: _donor_layers(module, recipe.donor, donor) for module in targets.modules}
    two_sided = donor.main is not None and donor.modules[donor.main].role in (ENCODER, DECODER)
    main = None if two_sided else donor.main
    config, layers = donor.checkpoint.config, depths.get(main or "")
    if layers is not None and layers != list(range(len(layers))):
        config = _spelled_out(config, str(donor.checkpoint.ref))
    adapted = output_config(
        config,
        layers=layers,
        dtype=recipe.out_dtype or recipe.dtype or _stored_dtype(config, tensors),
        tied=_tied([models[ref] for ref in recipe.named()], donor, targets),
        vocab_size=_vocab_size(donor, tensors),
        others={donor.modules[name].role: found for name, found in depths.items() if found and name != main},
    )
    return adapted if _has_codes(tensors) else _dequantised(adapted)


def _has_codes(tensors: Iterable[OutputTensor]) -> bool:
    """Whether some tensor may hold quantised weights: neither floats nor the numbers and masks of a buffer."""
    return any(tensor.dtype not in {*FLOATS.values(), "I64", "BOOL"} for tensor in tensors)


def _dequantised(config: dict[str, Any]) -> dict[str, Any]:
    """The config without what was said of weights that are none any more; transformers would look for their scales.

    Models that are quantised while they compute (BitNet's bf16 weights) say so, and stay what they are.
    """
    for _, part in parts_of(config):
        said = part.get(QUANTISATION)
        if said and not (isinstance(said, dict) and said.get("quantization_mode") == "online"):
            del part[QUANTISATION]
    return config


def left_out_of_config(recipe: Recipe, donor: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """A warning where `config`, made of the donor's, says no more that the weights are quantised."""
    written = dict(parts_of(config))
    left = [
        path for path, part in parts_of(donor) if QUANTISATION in part and QUANTISATION not in written.get(path, ())
    ]
    return [
        f"{recipe.donor}: config.json says {path}{QUANTISATION}, and the output's weights are floats: it is left out."
        for path in left[:1]
    ]


def _donor_layers(module: Module, ref: ModelRef, donor: SortedModel) -> list[int] | None:
    """For every layer of a module the donor's, or the first source's where the donor has none there; None: as is."""
    layers: list[int] = []
    for part in module.slices:
        own = next((source for source in part.sources if source.model == ref), part.sources[0])
        layers.extend(own.span)
    has = donor.modules.get(module.name)
    return None if has is None or layers == list(range(has.layout.layers)) else layers


def _spelled_out(config: Mapping[str, Any], origin: str) -> Mapping[str, Any]:
    """The config with the lists of kinds of layers that its class in transformers makes from the layers' numbers.

    Gemma 2, for one, alternates its attention by number where config.json has no `layer_types`; layers that move can
    only keep their kind by a list. PlanError where the class refuses the config.
    """
    text = next((config[name] for name in NESTED_CONFIGS if isinstance(config.get(name), dict)), config)
    if "layer_types" in text or not any(text.get(name) for name in ("sliding_window", *LAYER_PERIODS)):
        return config
    count = layer_count(text)[1]
    lists = {name: value for name, value in _in_full(text, origin).items() if "layer" in name}
    added = {n: v for n, v in lists.items() if n not in text and isinstance(v, list) and len(v) == count}
    spelled = {**text, **added}
    return spelled if text is config else {name: spelled if v is text else v for name, v in config.items()}


def _in_full(config: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """A config with everything that its class adds; {} where transformers has no such class."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        return {}
    with NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(config, file)
        file.flush()
        try:
            full: dict[str, Any] = CONFIG_MAPPING[kind].from_json_file(file.name).to_dict()
        except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
            raise PlanError(f"{origin}: config.json: transformers refuses it as {kind!r}: {error}") from error
    return full


def _tied(models: Iterable[SortedModel], donor: SortedModel, targets: Targets) -> bool | None:
    """What the config must say about tying; None: what the donor's says already.

    A head that is written is a tensor of its own even where every source is tied and keeps a copy of its embedding:
    random masks and filters by name make the two differ, and transformers 4 would not read it.
    """
    if has_head(target.name for target in targets.tensors):
        return False
    tied = has_head(targets.excluded) or any(model.tied for model in models)
    return True if tied and not donor.tied else None


def _vocab_size(donor: SortedModel, tensors: Iterable[OutputTensor]) -> int | None:
    """Rows of the written vocabulary where they are not the donor's; None: config.json says it already."""
    for tensor in tensors:
        own = donor.checkpoint.tensors.get(tensor.name)
        if own is not None and is_vocabulary(tensor.name) and own.shape != tensor.shape:
            return tensor.shape[0]
    return None


def odd_vocabulary(recipe: Recipe, config: Mapping[str, Any], tensors: Iterable[OutputTensor]) -> list[str]:
    """A warning where config.json counts other rows than any written vocabulary has; some classes pad by a multiple."""
    said = next((part["vocab_size"] for _, part in parts_of(config) if isinstance(part.get("vocab_size"), int)), None)
    rows = {tensor.shape[0]: tensor.name for tensor in tensors if is_vocabulary(tensor.name) and len(tensor.shape) == 2}
    if said is None or not rows or said in rows or "pad_vocab_size_multiple" in config:
        return []
    count, name = next(iter(rows.items()))
    return [
        f"{recipe.donor}: config.json says vocab_size = {said}, and {name} has {count} rows: "
        "transformers will not load the output. Correct vocab_size there, or in the output."
    ]


def _stored_dtype(config: Mapping[str, Any], tensors: list[OutputTensor]) -> str | None:
    """The dtype of most elements, where config.json says one that no tensor has: transformers would cast to it."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.elements
    said = FLOATS.get(str(config.get("dtype", config.get("torch_dtype"))))
    if said is None or said in sizes:
        return None
    return next((name for code, _ in sizes.most_common() for name, other in FLOATS.items() if other == code), None)
