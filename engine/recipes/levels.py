"""Where a recipe's `parameters:` stand: every level with its place in the file, from the most specific to the top."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from engine.recipes.keypath import KeyPath
from engine.recipes.recipe import ModelRef, Module, Recipe, Slice, SliceSource
from engine.recipes.settings import Setting

if TYPE_CHECKING:
    from engine.methods.contract import Method


@dataclass(frozen=True)
class Level:
    """One `parameters:`, and whose it is: a source's, the base's, or of a slice, a module or the whole recipe."""

    where: KeyPath
    parameters: Mapping[str, Setting]
    owner: Literal["source", "base", "shared"] = "shared"


@dataclass(frozen=True)
class PlacedSlice:
    """A slice, its module, and where it stands: `models:` has no place of its own, so its module's counts."""

    module: Module
    part: Slice
    where: KeyPath

    @property
    def listed(self) -> KeyPath:
        """Where its sources stand."""
        return self.where.key("models" if self.module.whole_models else "sources")


def slices(recipe: Recipe) -> Iterator[PlacedSlice]:
    """Every slice of every module."""
    root = KeyPath(recipe.origin)
    for module in recipe.parts:
        place = root.key("modules").key(module.name) if recipe.modules else root
        for index, part in enumerate(module.slices):
            yield PlacedSlice(module, part, place if module.whole_models else place.key("slices").item(index))


def levels(recipe: Recipe, method: Method) -> Iterator[Level]:
    """Every level once."""
    root = KeyPath(recipe.origin)
    for placed in slices(recipe):
        for number, source in enumerate(placed.part.sources):
            where = placed.listed.item(number).key("parameters")
            owner: Literal["source", "base"] = "base" if is_base(source, recipe, placed.part, method) else "source"
            yield Level(where, source.parameters, owner)
        yield Level(placed.where.key("parameters"), placed.part.parameters)
    for module in recipe.modules:
        yield Level(root.key("modules").key(module.name).key("parameters"), module.parameters)
    yield Level(root.key("parameters"), recipe.parameters)


def base_of(recipe: Recipe, part: Slice, method: Method) -> ModelRef | None:
    """The base of one slice, its own or the recipe's; None where the method has no use for one."""
    return None if method.base == "ignored" else part.base_model or recipe.base_model


def is_base(source: SliceSource, recipe: Recipe, part: Slice, method: Method) -> bool:
    return source.model == base_of(recipe, part, method)
