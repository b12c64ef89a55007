"""One vocabulary in matrices of different heights: how many rows the output has, and where missing rows are read.

Qwen2.5, for one, pads the rows of one vocabulary to 151936 in small models and to 152064 in large ones, and a
fine-tune with new tokens has a few rows more than its base. The output has as many rows as the model whose tokenizer
it gets, so every token has one, and rows that a source does not have are read from that model: a delta method sees a
delta of 0 there where it is the base, and its new tokens keep their rows where it is a fine-tune. (mergekit
refuses such models unless it builds a tokenizer, and then permutes and cuts rows.)
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.models import architecture
from engine.models.sorted_model import SortedModel
from engine.models.views import STORED
from engine.recipes.recipe import ModelRef, Recipe
from engine.tensorfile.store import SourceTensor

Input = tuple[ModelRef, SourceTensor]


class VocabularyRows:
    """Answers for one recipe; `warnings` says, once a model, what was filled up or left out."""

    def __init__(self, recipe: Recipe, models: Mapping[ModelRef, SortedModel]) -> None:
        self._recipe = recipe
        self._models = models
        self._noted: dict[ModelRef, str] = {}

    @property
    def warnings(self) -> list[str]:
        return list(self._noted.values())

    def full(self, name: str, inputs: list[Input]) -> Input | None:
        """The tensor of the tokenizer's model, where output tensor `name` takes its height from it; else None.

        That is where the tensor has a row per token and `inputs` differ from it in nothing but the number of rows.
        """
        if not architecture.is_vocabulary(name) or any(tensor.dtype not in STORED for _, tensor in inputs):
            return None
        owner = self._recipe.tokenizer_model
        if self._models[owner].checkpoint.raw:
            return None
        tensors = self._models[owner].checkpoint.tensors
        full = tensors.get(name) or tensors.get(architecture.tied_source(name, tensors) or "")
        if full is None or full.dtype not in STORED or not full.shape:
            return None
        if all(tensor.shape == full.shape for _, tensor in inputs):
            return None
        if any(tensor.shape[1:] != full.shape[1:] or len(tensor.shape) != len(full.shape) for _, tensor in inputs):
            return None
        for ref, tensor in inputs:
            self._note(ref, tensor.shape[0], owner, full.shape[0])
        return owner, full

    def _note(self, ref: ModelRef, rows: int, owner: ModelRef, full: int) -> None:
        if rows == full or ref in self._noted:
            return
        done = (
            f"its last {rows - full} are left out" if rows > full else f"the other {full - rows} are read from {owner}"
        )
        self._noted[ref] = (
            f"{self._recipe.origin}: the vocabulary has {full} rows, as in {owner}, whose tokenizer the output gets; "
            f"{ref} has {rows}: {done}."
        )
