"""Whether the rows that a recipe merges mean the same tokens, and fit the tokenizer that the output gets.

Embeddings are merged row by row. Where two models give one token different ids, that mixes tokens up, whatever the
tokenizer: mergekit permutes rows when a recipe chooses a tokenizer; here such a recipe is refused for now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine.errors import PlanError
from engine.models.architecture import is_vocabulary
from engine.models.chat_templates import FILE
from engine.models.checkpoint import Checkpoint
from engine.models.tokenizer import TOKENIZER_FILES
from engine.models.vocabulary import Vocabulary, compare
from engine.planning.plan import OutputTensor
from engine.recipes.keypath import KeyPath
from engine.recipes.recipe import ModelRef, Recipe


def check_vocabularies(
    recipe: Recipe, checkpoints: Mapping[ModelRef, Checkpoint], tensors: Iterable[OutputTensor], *, padded: bool
) -> list[str]:
    """Warnings about tokens that the output's tokenizer does not share with the models whose rows are merged.

    Args:
        tensors: of the output.
        padded: whether the models have different numbers of rows.

    Raises PlanError where the recipe wants a union and vocabularies differ, or where one token has two ids and the
    recipe chooses a tokenizer, or rows are filled up.
    """
    owner = recipe.tokenizer_model
    own = checkpoints[owner].vocabulary
    where = KeyPath(recipe.origin, error_class=PlanError)
    where = where.key("tokenizer_source") if recipe.tokenizer_source else where
    warnings = []
    views = [view for tensor in tensors if is_vocabulary(tensor.name) for view in tensor.views]
    read = dict.fromkeys(recipe.opened[view.source] for view in views)
    for ref in (ref for ref in read if not ref.statistics):
        vocabulary = checkpoints[ref].vocabulary
        if ref == owner or own is None or vocabulary is None:
            if recipe.tokenizer_source == "union" and ref != owner:
                silent = ref if vocabulary is None else owner
                warnings.append(f"{where}: {silent} has no vocabulary that can be read: taken to have the same one.")
            continue
        told = _Told(owner, own, ref, vocabulary)
        if recipe.tokenizer_source == "union" and told.differs:
            raise where.error(
                f"{told.moved or told.only_own or told.only_other} A union of different vocabularies is not supported "
                "yet: name the model whose tokenizer the output gets."
            )
        if told.moved and (recipe.tokenizer_source or padded):
            raise where.error(f"{told.moved} Their rows cannot be merged: models of one vocabulary are needed.")
        if told.moved:
            warnings.append(f"{where}: {told.moved} Rows are merged by id, so such tokens are mixed up.")
        elif told.differs:
            warnings.append(f"{where}: {' '.join(filter(None, (told.only_own, told.only_other)))}")
    return warnings


def check_tokenizer(recipe: Recipe, checkpoints: Mapping[ModelRef, Checkpoint]) -> list[str]:
    """A warning where the output gets no tokenizer although a source has one.

    Raises PlanError where tokenizer_source names a model without any.
    """
    owner = recipe.tokenizer_model
    if checkpoints[owner].raw or _has_any(checkpoints[owner], (*TOKENIZER_FILES, FILE)):
        return []
    where = KeyPath(recipe.origin, error_class=PlanError).key("tokenizer_source")
    other = next((ref for ref in recipe.models if _has_any(checkpoints[ref], TOKENIZER_FILES)), None)
    if recipe.tokenizer_source == str(owner):
        advice = "leave the key out" if other is None else f"name another model, such as {other}"
        raise where.error(f"{owner} has no tokenizer file ({', '.join(TOKENIZER_FILES[:2])}, ...): {advice}.")
    if other is None:
        return []
    return [
        f"{where}: {owner} has no tokenizer, so none is written; {other} has one: tokenizer_source: {other} takes it."
    ]


def _has_any(checkpoint: Checkpoint, names: tuple[str, ...]) -> bool:
    return not checkpoint.raw and any((checkpoint.tokenizer_directory / name).is_file() for name in names)


class _Told:
    """The differences between two vocabularies in words; empty where there are none."""

    def __init__(self, owner: ModelRef, own: Vocabulary, ref: ModelRef, other: Vocabulary) -> None:
        mine, theirs = compare(own, other), compare(other, own)
        self.differs = bool(mine.moved or mine.missing or theirs.missing)
        self.moved = self.only_own = self.only_other = ""
        if mine.moved:
            token = mine.moved[0]
            self.moved = (
                f"token {token!r} has id {own.ids[token]} in {owner} and {other.ids[token]} in {ref} "
                f"({len(mine.moved)} such tokens)."
            )
        if mine.missing:
            self.only_own = _missing(mine.missing, own, owner, ref)
        if theirs.missing:
            self.only_other = _missing(theirs.missing, other, ref, owner)


def _missing(tokens: tuple[str, ...], vocabulary: Vocabulary, there: ModelRef, not_here: ModelRef) -> str:
    first = tokens[0]
    many = f" ({len(tokens)} such tokens)" if len(tokens) > 1 else ""
    return f"token {first!r}, id {vocabulary.ids[first]} in {there}, is not known to {not_here}{many}."
