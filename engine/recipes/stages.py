"""Several recipes in one file: each has a name but the last one made, and may use the others' names as models.

    name: first                      # a YAML file of several documents; the order does not matter
    merge_method: slerp
    ...
    ---
    merge_method: linear             # no name: the output
    models: [{model: first, ...}, {model: ./another, ...}]

Only where a model stands is a name read as a stage (mergekit-multi replaces every equal text). Opens no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from engine.errors import RecipeError
from engine.recipes.keypath import KeyPath, shown
from engine.recipes.model_ref import ModelRef
from engine.recipes.reader import parse_recipe
from engine.recipes.recipe import Recipe
from engine.recipes.yamlfile import Document, read_documents

_NAME = re.compile(r"\w[\w.-]{0,99}")


@dataclass(frozen=True)
class Stage:
    """One recipe of a file; `needs` are the stages whose outputs it merges. Without a name it makes the output."""

    name: str | None
    recipe: Recipe
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stages:
    """The recipes of a file in an order in which they can be made; the output is made last."""

    parts: tuple[Stage, ...]

    @classmethod
    def of(cls, recipe: Recipe | Stages | str | Path) -> Stages:
        """A recipe alone, or those of a YAML file."""
        if isinstance(recipe, Stages):
            return recipe
        return cls((Stage(None, recipe),)) if isinstance(recipe, Recipe) else load_stages(recipe)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(stage.name for stage in self.parts if stage.name is not None)

    def with_seed(self, seed: int | None) -> Stages:
        """The same with another seed for every recipe; None changes nothing."""
        if seed is None:
            return self
        note = f"# merged with --random-seed {seed}, whatever seed stands below\n"  # the text is published as read
        texts = [part.recipe.text and note + part.recipe.text for part in self.parts]
        recipes = [replace(part.recipe, seed=seed, text=text) for part, text in zip(self.parts, texts, strict=True)]
        return Stages(tuple(replace(part, recipe=recipe) for part, recipe in zip(self.parts, recipes, strict=True)))

    def placed(self, directory: Path) -> Stages:
        """The same with every name of a stage replaced by its place in `directory`."""
        places = {name: str(directory / name) for name in self.names}
        return Stages(tuple(replace(stage, recipe=_renamed(stage.recipe, places)) for stage in self.parts))


def stages_directory(out: Path) -> Path:
    """Where the stages of an output are made, unless the caller says otherwise."""
    return Path(f"{out}.stages").expanduser()


def load_stages(path: str | Path) -> Stages:
    """The recipes in a YAML file: one, or several with one unnamed. RecipeError names file and stage at fault."""
    documents = read_documents(path)
    if len(documents) == 1:
        recipe = parse_recipe(documents[0].data, origin=str(path))
        return Stages((Stage(None, replace(recipe, text=documents[0].text)),))
    named: dict[str | None, Document] = {}
    for document in documents:
        name = _name(document, path)
        if name in named:
            what = f"a second stage is called {name!r}" if name else "a second stage has no name"
            advice = "give one of them another name." if name else "give every stage but the output's a name."
            raise RecipeError(f"{path}: line {document.line}: {what}: {advice}", file=str(path))
        named[name] = document
    if None not in named:
        raise RecipeError(
            f"{path}: all {len(named)} stages have names; leave the name of the one that makes the output out.",
            file=str(path),
        )
    stages = [_stage(name, document, named, path) for name, document in named.items()]
    return Stages(_ordered({stage.name: stage for stage in stages}, path))


def _name(document: Document, path: str | Path) -> str | None:
    raw = document.data.get("name") if isinstance(document.data, Mapping) else None
    if raw is None:
        return None
    where = KeyPath(f"{path}: line {document.line}").key("name")
    text = where.text(raw)
    if not _NAME.fullmatch(text) or text.endswith((".partial", ".")):
        raise where.error(f"got {shown(raw)}, a name of letters, digits, '_', '-' and '.' expected.")
    return text


def _stage(name: str | None, document: Document, named: Iterable[str | None], path: str | Path) -> Stage:
    data = document.data
    if name is not None:
        assert isinstance(data, Mapping)
        data = {key: value for key, value in data.items() if key != "name"}
    recipe = parse_recipe(data, origin=f"{path}: stage {name}" if name else f"{path}: the stage without a name")
    used = {ref.path for ref in recipe.models if ref.revision is None}
    needs = tuple(other for other in named if other in used and other is not None)
    return Stage(name, replace(recipe, text=document.text), needs)


def _ordered(stages: Mapping[str | None, Stage], path: str | Path) -> tuple[Stage, ...]:
    """Every stage after those that it needs, otherwise as in the file, the output last. RecipeError for a circle."""
    done: dict[str | None, Stage] = {}

    def visit(name: str | None, trail: tuple[str | None, ...]) -> None:
        if name in trail:
            circle = " → ".join(other or "the output" for other in (*trail[trail.index(name) :], name))
            raise RecipeError(f"{path}: stages need each other in a circle: {circle}.", file=str(path))
        if name not in done:
            for other in stages[name].needs:
                visit(other, (*trail, name))
            done[name] = stages[name]

    for name in sorted(stages, key=lambda name: name is None):
        visit(name, ())
    return tuple(done.values())


def _renamed(recipe: Recipe, places: Mapping[str, str]) -> Recipe:
    """The recipe with models of these names replaced: every ModelRef in it, and the one that is text."""

    def rename(ref: ModelRef) -> ModelRef:
        return replace(ref, path=places[ref.path]) if ref.revision is None and ref.path in places else ref

    def walk(value: Any) -> Any:
        if isinstance(value, ModelRef):
            return rename(value)
        if isinstance(value, tuple):
            return tuple(map(walk, value))
        if isinstance(value, Mapping):
            return {walk(key): walk(inner) for key, inner in value.items()}
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{field.name: walk(getattr(value, field.name)) for field in fields(value)})
        return value

    texts = {str(ref): str(rename(ref)) for ref in recipe.models}
    moved: Recipe = walk(recipe)
    return replace(moved, tokenizer_source=texts.get(recipe.tokenizer_source or "", recipe.tokenizer_source))
