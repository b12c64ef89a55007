"""What models are called in files that are published: others can do nothing with a path of this machine.

A Hub id, a URL and a relative path stand as they are. A path that leads through this machine's directories (absolute,
`~`, `..`) stands by its last part; a campaign gives every local model a short name (`Options.names`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from engine.recipes.model_ref import ModelRef
from engine.recipes.recipe import Recipe

Names = Mapping[str, str]
"""Path of a model, as a recipe has it → what it is called."""


def public_names(recipe: Recipe, given: Names | None = None) -> dict[str, str]:
    """A name for every model and adapter of the recipe, no two alike."""
    names = dict(given or {})
    taken = set(names.values())
    for ref in _parts(recipe.opened):
        if ref.path in names:
            continue
        names[ref.path] = unlike(taken, Path(ref.path).name if is_private(ref.path) else ref.path)
        taken.add(names[ref.path])
    return names


def unlike(taken: Collection[str], stem: str) -> str:
    """`stem`, or with a number behind it where that is taken."""
    names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
    return next(name for name in names if name not in taken)


def named(ref: ModelRef, names: Names) -> ModelRef:
    """The model under its public name; an adapter is named on its own."""
    lora = None if ref.lora is None else named(ref.lora, names)
    return replace(ref, path=names.get(ref.path, ref.path), lora=lora)


def with_models(recipe: Recipe, change: Callable[[ModelRef], ModelRef]) -> Recipe:
    """The recipe with every model in it changed, wherever it stands."""
    changed: Recipe = _changed(replace(recipe, text=""), change)
    if recipe.tokenizer_source in (None, "base", "union"):
        return changed
    return replace(changed, tokenizer_source=str(change(recipe.tokenizer_model)))


def renamed_text(text: str, names: Names) -> str:
    """YAML as the user wrote it, with names in place of this machine's paths."""
    for path in sorted((path for path in names if is_private(path)), key=len, reverse=True):
        text = text.replace(path, names[path])
    return text


def _changed(value: Any, change: Callable[[ModelRef], ModelRef]) -> Any:
    if isinstance(value, ModelRef):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _changed(getattr(value, f.name), change) for f in fields(value) if f.init})
    if isinstance(value, Mapping):
        return {_changed(key, change): _changed(inner, change) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_changed(inner, change) for inner in value)
    return value


def _parts(refs: Iterable[ModelRef]) -> Iterable[ModelRef]:
    for ref in refs:
        yield ref
        if ref.lora is not None:
            yield ref.lora


def is_private(path: str) -> bool:
    """Whether it leads through directories that only this machine has."""
    return path.startswith(("/", "~")) or ".." in Path(path).parts
