"""A recipe against the table of methods: names, required parameters, values, number of models. Opens no model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.errors import did_you_mean
from engine.recipes.keypath import KeyPath
from engine.recipes.levels import Level, PlacedSlice, base_of, is_base, levels, slices
from engine.recipes.recipe import ModelRef, Recipe
from engine.recipes.settings import ByName, Gradient, Setting, constants, setting_to_data

if TYPE_CHECKING:
    from engine.methods.contract import Method, Parameter

MAX_VALUE = 1e18
"""Of two settings the product, and of many the sum, must be a float32."""


def check_parameters(recipe: Recipe, methods: Mapping[str, Method], *, allow_unknown: bool = False) -> list[str]:
    """Warnings for what has no effect; RecipeError, naming file and key, for what cannot be merged.

    Filters that match no tensor are not seen here: that takes the tensors' names, so the plan tells.
    """
    method = _method(recipe, methods)
    warnings = [f"{place}: has no meaning here and is ignored." for place in recipe.ignored]
    for placed in slices(recipe):
        _check_models(recipe, placed, method)
        warnings += _check_importance(recipe, placed, method)
    places = list(levels(recipe, method))
    warnings += _check_names(places, method, methods, allow_unknown=allow_unknown)
    for level in places:
        for name in level.parameters.keys() & method.parameters.keys():
            warnings += _check_value(level.parameters[name], method.parameters[name], level.where.key(name))
    for placed in slices(recipe):
        _check_required(recipe, placed, method)
    return warnings


def _method(recipe: Recipe, methods: Mapping[str, Method]) -> Method:
    if recipe.method in methods:
        return methods[recipe.method]
    where = KeyPath(recipe.origin).key("merge_method")
    from engine.methods import own

    raise where.error(f"unknown method {recipe.method!r}; {did_you_mean(recipe.method, [*methods, *own.names()])}")


def _check_models(recipe: Recipe, placed: PlacedSlice, method: Method) -> None:
    """The number of models, and that the base is there where the method has one."""
    models, implied = [source.model for source in placed.part.sources], placed.module.whole_models
    base = base_of(recipe, placed.part, method)
    if base is None and method.base == "required":
        named = ", ".join(map(str, models))
        raise KeyPath(recipe.origin).error(f"has no 'base_model', which {method.name} needs; models: {named}.")
    low, high = method.models
    if base is not None:
        _check_base(base, placed, method)
        models = list(dict.fromkeys([base, *models])) if implied else models
        low, high = low + 1, None if high is None else high + 1
    if low <= len(models) and (high is None or len(models) <= high):
        return
    among = "" if base is None else ", base_model included"
    hint = " To stack layers, use 'slices'." if (low, high) == (1, 1) and implied else ""
    raise placed.listed.error(
        f"{method.name} takes {_count(low, high)}{among}; got {len(models)}: {', '.join(map(str, models))}.{hint}"
    )


def _check_importance(recipe: Recipe, placed: PlacedSlice, method: Method) -> list[str]:
    """Every source has an importance where the method wants one; a warning for each that none wants."""
    warnings = []
    for index, source in enumerate(placed.part.sources):
        wanted = method.importance and not is_base(source, recipe, placed.part, method)
        where = placed.listed.item(index)
        if wanted and source.importance is None:
            raise where.error(
                f"{source.model} has no 'importance', which {method.name} needs: a file or directory with a tensor of "
                "numbers from 0 for every tensor of the model."
            )
        if source.importance is not None and not wanted:
            warnings.append(f"{where.key('importance')}: {method.name} makes no use of it: ignored.")
    return warnings


def _check_base(base: ModelRef, placed: PlacedSlice, method: Method) -> None:
    """A whole base need not be listed, but a slice must say which layers of it correspond."""
    models = [source.model for source in placed.part.sources]
    if models.count(base) > 1:
        raise placed.listed.error(f"base_model {base} stands there more than once: which layers are the base?")
    if base in models:
        return
    named = " and ".join(map(str, models))
    if method.base == "required" and method.models == (1, 1) and len(models) == 2:
        raise placed.where.error(
            f"{method.name}'s base_model must be one of its two sources; got {base}, sources {named}."
        )
    if not placed.module.whole_models:
        raise placed.listed.error(
            f"base_model {base} is not among them; add it, with the layer_range to compare with. Sources: {named}."
        )


def _count(low: int, high: int | None) -> str:
    if high is None:
        return f"at least {low} model{'s' if low > 1 else ''}"
    exact = f"exactly {low}" if low == high else f"{low} to {high}"
    return f"{exact} model{'s' if high > 1 else ''}"


def _check_names(
    levels: list[Level], method: Method, methods: Mapping[str, Method], *, allow_unknown: bool
) -> list[str]:
    """Refuse unknown parameters; one warning for each name that has no effect where it stands."""
    known = {parameter for other in methods.values() for parameter in other.parameters}
    places: dict[str, list[KeyPath]] = {}
    for level in levels:
        for name in level.parameters:
            where = level.where.key(name)
            if name not in known and not allow_unknown:
                near = did_you_mean(name, method.parameters)
                raise where.error(f"unknown parameter; {near} (--allow-unknown ignores unknown parameters.)")
            note = _no_effect(name, level, method, methods)
            if note:
                places.setdefault(note, []).append(where)
    return [
        f"{first}: {note}" + (f" (So in {len(more)} more place{'s' if len(more) > 1 else ''}.)" if more else "")
        for note, (first, *more) in places.items()
    ]


def _no_effect(name: str, level: Level, method: Method, methods: Mapping[str, Method]) -> str | None:
    """Why a parameter does nothing where it stands; None where it does something."""
    if name not in method.parameters:
        owners = sorted(other.name for other in methods.values() if name in other.parameters)
        of_whom = f" It belongs to {', '.join(owners)}." if owners else ""
        return f"{method.name} has no parameter {name!r}: ignored.{of_whom}"
    if level.owner == "base":
        return f"the base model has no {name!r} of its own: ignored."
    if level.owner == "source" and method.parameters[name].scope == "global":
        return f"{name!r} holds for the whole merge, so it is ignored at a model: move it to the recipe's 'parameters'."
    return None


def _check_value(setting: Setting, parameter: Parameter, where: KeyPath) -> list[str]:
    """Refuse values out of range; a list of warnings for unusual ones."""
    values = list(constants(setting))
    choices = [choice for _, choice in setting.choices] if isinstance(setting, ByName) else [setting]
    gradients = [choice for choice in choices if isinstance(choice, Gradient)]
    stepped = all(isinstance(value, bool) for choice in gradients for value in choice.values)
    if isinstance(parameter.default, bool) and (not stepped or any(value not in (0, 1) for value in values)):
        raise where.error(f"got {setting_to_data(setting)}, true or false expected.")
    if not isinstance(parameter.default, bool) and gradients and stepped:
        raise where.error(f"got {setting_to_data(setting)}, numbers expected: {parameter.name} is no switch.")
    if any(abs(value) > MAX_VALUE for value in values):
        raise where.error(f"got {max(values, key=abs):g}, a number from {-MAX_VALUE:g} to {MAX_VALUE:g} expected.")
    for value in values:
        if not parameter.low <= value <= parameter.high or (parameter.whole and value != int(value)):
            raise where.error(f"got {value:g}, {_allowed(parameter)} expected.")
    outside = [value for value in values if not 0 <= value <= 1]
    if parameter.name == "t" and parameter.low == -math.inf and outside:  # a place between models, not a distance
        return [f"{where}: {outside[0]} lies outside 0 to 1, so it extrapolates beyond one of the models."]
    return []


def _allowed(parameter: Parameter) -> str:
    """`a number from 0 to 1`, `a whole number of at least 1`."""
    kind = "a whole number" if parameter.whole else "a number"
    if parameter.high == math.inf:
        return kind if parameter.low == -math.inf else f"{kind} of at least {parameter.low:g}"
    return f"{kind} from {parameter.low:g} to {parameter.high:g}"


def _check_required(recipe: Recipe, placed: PlacedSlice, method: Method) -> None:
    """Every required parameter has a value at some level: for every source that is not the base, or for the slice."""
    part = placed.part
    shared = part.parameters.keys() | placed.module.parameters.keys() | recipe.parameters.keys()
    for parameter in method.parameters.values():
        if not parameter.required or parameter.name in shared:
            continue
        needed = f"has no {parameter.name!r}, which {method.name} needs, as in parameters: {{{parameter.name}: 0.5}}."
        if parameter.scope == "global":
            raise placed.where.error(needed)
        for index, source in enumerate(part.sources):
            if parameter.name not in source.parameters and not is_base(source, recipe, part, method):
                raise placed.listed.item(index).error(f"{source.model} {needed}")
