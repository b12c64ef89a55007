"""Weight heat maps: what the winner takes from which source, along the layers. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.results import Results


@dataclass(frozen=True)
class HeatMap:
    """Values of one recipe parameter: rows are source · module group, columns places along the model.

    `whole`: they are numbers of layers.
    """

    parameter: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    whole: bool = False


def heat_maps(results: Results) -> list[HeatMap]:
    """Layer by source, one map for every per-source parameter of the winner's recipe (weight first).

    What belongs to the whole merge (slerp's t) has a row of its own, where it is not the same everywhere; a layer
    sequence has one map, of the number of the layer that each source gives to each layer of the output. A campaign
    that searches modules apart has one row per source and module group. The last column is what all other tensors get:
    embeddings, norms, head.
    """
    if results.winner is None:
        return []
    from engine.recipes.reader import parse_recipe

    recipe = parse_recipe(dict(results.candidate(results.winner).recipe), origin="winner")
    sources = [source for part in recipe.all_slices for source in part.sources]
    if any(source.layers is not None for source in sources):
        return [_sequence_map(results, sources)]
    labels = _labels(results)
    owners = [(labels.get(str(s.model), str(s.model).rsplit("/", 1)[-1]), s.parameters) for s in sources]
    varied = {name: setting for name, setting in recipe.parameters.items() if not isinstance(setting, int | float)}
    owners += [("all sources", varied)] if varied else []
    names = dict.fromkeys(name for _, parameters in owners for name in parameters)
    return [_heat_map(results, owners, parameter=name) for name in sorted(names, key=lambda n: (n != "weight", n))]


def _heat_map(results: Results, owners: Sequence[tuple[str, Mapping[str, Any]]], *, parameter: str) -> HeatMap:
    from engine.recipes.settings import evaluate

    layers = results.layers
    owners = [(label, parameters) for label, parameters in owners if parameter in parameters]
    groups = _groups(results, [parameters[parameter] for _, parameters in owners])
    rows, values = [], []
    for label, parameters in owners:
        setting = parameters[parameter]
        for group, pattern in groups.items():
            depths = [layer / max(1, layers - 1) for layer in range(layers)]
            chosen = _choice(setting, pattern)
            row = [None if chosen is None else evaluate(chosen, "", depth) for depth in depths]
            row.append(evaluate(setting, "model.norm.weight", 1.0))
            rows.append(f"{label} · {group}" if len(groups) > 1 else label)
            values.append(tuple(math.nan if value is None else float(value) for value in row))
    columns = (*(f"layer {n}" for n in range(layers)), "rest")
    return HeatMap(parameter, tuple(rows), columns, tuple(values))


def _sequence_map(results: Results, sources: Sequence[Any]) -> HeatMap:
    labels = _labels(results)
    places = [(str(source.model), layer) for source in sources for layer in source.span]
    rows = tuple(name for model, name in labels.items() if any(given == model for given, _ in places))
    models = [model for model, name in labels.items() if name in rows]
    values = tuple(tuple(float(n) if given == model else math.nan for given, n in places) for model in models)
    return HeatMap("layer taken", rows, tuple(f"layer {n}" for n in range(len(places))), values, whole=True)


def _labels(results: Results) -> dict[str, str]:
    """Source as recipes have it → its short name."""
    return dict(zip((entry.model for entry in results.campaign.sources), results.campaign.source_names, strict=True))


def _choice(setting: Any, pattern: str | None) -> Any:
    """What a setting says where this filter matches; None where it says nothing there."""
    from engine.recipes.settings import ByName

    if not isinstance(setting, ByName):
        return setting
    choices = dict(reversed(setting.choices))  # the first of two equal filters holds
    return choices.get(pattern, choices.get(None))


def _groups(results: Results, settings: Sequence[Any]) -> dict[str, str | None]:
    """Group of tensors → its filter; one nameless group where the recipe makes no difference by name."""
    from engine.recipes.settings import ByName

    filters = dict.fromkeys(text for s in settings if isinstance(s, ByName) for text, _ in s.choices if text)
    space = results.campaign.space
    named = [space.modules, *(stage.patterns for stage in space.stages)]
    names = {text: group for given in reversed(named) for group, text in given.items()}
    return {names.get(text, text): text for text in filters} or {"": None}
