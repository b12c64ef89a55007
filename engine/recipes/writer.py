"""A Recipe → plain data for YAML or JSON, from which `reader` makes an equal one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine.errors import SourceError
from engine.recipes.model_ref import model_to_data
from engine.recipes.recipe import ModelRef, Module, Recipe, Rule, Slice, SliceSource, number_sources
from engine.recipes.settings import Setting, setting_to_data

_text = json.JSONEncoder(ensure_ascii=False).encode


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain data (for YAML or JSON) that `parse_recipe` reads back as an equal recipe."""
    data: dict[str, Any] = {"merge_method": recipe.method}
    if recipe.base_model is not None:
        data["base_model"] = model_to_data(recipe.base_model)
    ids = _ids_to_state(recipe)
    if recipe.modules:
        data["modules"] = {
            part.name: _slices_to_data(part, ids) | _parameters_to_data(part.parameters) for part in recipe.modules
        }
    else:
        data |= _slices_to_data(recipe.parts[0], ids)
    if ids:  # what is left belongs to a base_model that is not listed
        data["base_source_id"] = ids.popitem()[1]
    data |= _parameters_to_data(recipe.parameters)
    if recipe.rules:
        data["tensors"] = [_rule_to_data(rule) for rule in recipe.rules]
    for name in ("dtype", "out_dtype", "chat_template"):
        if getattr(recipe, name) is not None:
            data[name] = getattr(recipe, name)
    if recipe.tokenizer_source is not None:
        is_model = recipe.tokenizer_source not in ("base", "union")
        data["tokenizer_source"] = model_to_data(recipe.tokenizer_model) if is_model else recipe.tokenizer_source
    if recipe.tensor_set != "same":
        data["tensor_set"] = recipe.tensor_set
    if recipe.seed:
        data["seed"] = recipe.seed
    return data


def flat(data: Any, place: str = "") -> dict[str, str]:
    """Every value of plain data as JSON, by where it stands: `models[1].parameters.weight`; lists of values are one."""
    if isinstance(data, dict) and data:
        inner = [(f"{place}.{key}" if place else str(key), value) for key, value in data.items()]
    elif isinstance(data, list) and any(isinstance(item, (dict, list)) for item in data):
        inner = [(f"{place}[{index}]", item) for index, item in enumerate(data)]
    else:
        return {place: _text(data)}
    return {name: text for key, value in inner for name, text in flat(value, key).items()}


def at_its_key(error: SourceError, recipe: Recipe) -> SourceError:
    """The error of a model that is not there, with the recipe's file and the key that names the model."""
    missing = error.facts.get("missing")
    for key, text in flat(recipe_to_dict(recipe)).items():
        value = json.loads(text)
        parts = value.split("+") if isinstance(value, str) else []
        if missing is not None and missing in (value, *parts, *(part.partition("@")[0] for part in parts)):
            return SourceError(f"{recipe.origin}: {key}: {error}", **error.facts, file=recipe.origin, key=key)
    return error


def _ids_to_state(recipe: Recipe) -> dict[ModelRef, int]:
    """The source ids that must be written down: none where they are the ones that parsing gives anyway."""
    named = recipe.named()
    listed = {source.model for part in recipe.all_slices for source in part.sources}
    stated: dict[ModelRef, int] = {}
    for wanted in (listed, set(named)):
        derived = number_sources(named, stated, recipe.origin)
        if any(derived[ref] != recipe.source_ids[ref] for ref in wanted):
            stated = {ref: recipe.source_ids[ref] for ref in named if ref in wanted}
    return stated


def _slices_to_data(module: Module, ids: dict[ModelRef, int]) -> dict[str, Any]:
    if module.whole_models:
        return {"models": [_source_to_data(source, ids) for source in module.slices[0].sources]}
    return {"slices": [_slice_to_data(part, ids) for part in module.slices]}


def _rule_to_data(rule: Rule) -> dict[str, Any]:
    if rule.model is not None:
        return {"filter": rule.filter, "copy": model_to_data(rule.model)}
    if rule.action == "keep":
        return {"filter": rule.filter, "keep": "base"}
    return {"filter": rule.filter, "exclude": "anyway" if rule.action == "exclude_anyway" else True}


def _slice_to_data(part: Slice, ids: dict[ModelRef, int]) -> dict[str, Any]:
    data: dict[str, Any] = {"sources": [_source_to_data(source, ids) for source in part.sources]}
    if part.base_model is not None:
        data["base_model"] = model_to_data(part.base_model)
    return data | _parameters_to_data(part.parameters)


def _source_to_data(source: SliceSource, ids: dict[ModelRef, int]) -> dict[str, Any]:
    """Takes the model's id out of `ids`, so that it is stated once."""
    data: dict[str, Any] = {"model": model_to_data(source.model)}
    if source.layers is not None:
        data["layer_range"] = list(source.layers)
    if source.importance is not None:
        data["importance"] = model_to_data(replace(source.importance, statistics=False))
    if source.model in ids:
        data["source_id"] = ids.pop(source.model)
    return data | _parameters_to_data(source.parameters)


def _parameters_to_data(parameters: Mapping[str, Setting]) -> dict[str, Any]:
    settings = {name: setting_to_data(setting) for name, setting in parameters.items()}
    return {"parameters": settings} if settings else {}
