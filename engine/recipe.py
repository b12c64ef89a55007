"""What to merge: a frozen Recipe. `recipe_reader` makes one from mergekit-compatible YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from engine.errors import RecipeError
from engine.model_ref import ModelRef as ModelRef
from engine.settings import Setting

MAX_SOURCE_ID = 1 << 31


@dataclass(frozen=True)
class SliceSource:
    """One model's layers [start, end) in a slice; `layers=None` means the whole model."""

    model: ModelRef
    layers: tuple[int, int] | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """Consecutive layers of the output, made from equally many layers of each source."""

    sources: tuple[SliceSource, ...]
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    base_model: ModelRef | None = None


@dataclass(frozen=True)
class Recipe:
    """A merge, as the user stated it, checked for structure but not yet against any model or method.

    `models:` becomes one slice of whole models; a base_model that is not listed is no source of it (mergekit adds it
    as one). `source_ids` number the models for the random methods: by default their order of first appearance
    (base_model last when it is not listed); a campaign fixes them in its own order. On construction, models without
    an id get the smallest free ones, and ids of models that the recipe does not name are dropped.
    `ignored` lists the keys that mergekit accepts and that mean nothing; `text` is the YAML it was read from, if any.
    """

    method: str
    slices: tuple[Slice, ...]
    base_model: ModelRef | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: str | None = None
    chat_template: str | None = None
    seed: int = 0
    source_ids: Mapping[ModelRef, int] = field(default_factory=dict)
    origin: str = field(default="<recipe>", compare=False)
    ignored: tuple[str, ...] = field(default=(), compare=False)
    text: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "source_ids", number_sources(self.named(), self.source_ids, self.origin))

    def named(self) -> list[ModelRef]:
        """Every model, as often as it is named, in order of appearance."""
        listed = [source.model for part in self.slices for source in part.sources]
        return listed if self.base_model is None else [*listed, self.base_model]

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """Every model named, in the order of their source ids."""
        return tuple(sorted(self.source_ids, key=lambda ref: self.source_ids[ref]))

    @property
    def whole_models(self) -> bool:
        """Whether the recipe is of the form `models:`, not `slices:`."""
        return len(self.slices) == 1 and all(source.layers is None for source in self.slices[0].sources)

    @property
    def donor(self) -> ModelRef:
        """The model whose config the output starts from: base_model, else the first source."""
        return self.base_model or self.slices[0].sources[0].model

    @property
    def tokenizer_model(self) -> ModelRef:
        """The model whose tokenizer the output gets: tokenizer_source, where nothing but a model means the donor.

        `union` is checked to be of equal vocabularies (engine.vocabulary_check), so the donor's is as good as any.
        """
        if self.tokenizer_source in (None, "base", "union"):
            return self.donor
        return next((ref for ref in self.models if str(ref) == self.tokenizer_source), self.donor)


def number_sources(named: Iterable[ModelRef], given: Mapping[ModelRef, int], origin: str) -> dict[ModelRef, int]:
    """An id for every model: the one given, else the smallest that is free."""
    models = list(dict.fromkeys(named))
    numbers: dict[ModelRef, int] = {}
    for ref in models:
        if ref in given:
            twin = next((other for other, number in numbers.items() if number == given[ref]), None)
            if twin is not None:
                raise RecipeError(f"{origin}: source_id {given[ref]} is given to both {twin} and {ref}.", file=origin)
            numbers[ref] = given[ref]
    taken = set(numbers.values())
    free = (number for number in range(MAX_SOURCE_ID) if number not in taken)
    return {ref: numbers[ref] if ref in numbers else next(free) for ref in models}
