"""What to merge: a frozen Recipe. `reader` makes one from mergekit-compatible YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from engine.errors import RecipeError
from engine.recipes.model_ref import ModelRef as ModelRef
from engine.recipes.settings import Setting

MAX_SOURCE_ID = 1 << 31
TensorSet = Literal["same", "intersection", "union"]
_TEXT_MODULES = ("text_decoder", "decoder", "language_model", "model.language_model", "default")
"""Names of the module that config.json and tokenizer belong to, most telling first."""


@dataclass(frozen=True)
class SliceSource:
    """One model's layers [start, end) in a slice; `layers=None` means the whole model.

    `importance` is where the model's importance tensors are, of its tensors' names and shapes (our extension).
    """

    model: ModelRef
    layers: tuple[int, int] | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    importance: ModelRef | None = None

    @property
    def span(self) -> range:
        """The layers, where they are spelled out."""
        assert self.layers is not None
        return range(*self.layers)


@dataclass(frozen=True)
class Slice:
    """Consecutive layers of the output, made from equally many layers of each source."""

    sources: tuple[SliceSource, ...]
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    base_model: ModelRef | None = None


@dataclass(frozen=True)
class Module:
    """A part of a model with layers of its own (`modules:`): which tensors it has, `models.modules` says by `name`."""

    name: str
    slices: tuple[Slice, ...]
    parameters: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def whole_models(self) -> bool:
        """Whether it is of the form `models:`, not `slices:`."""
        return len(self.slices) == 1 and all(source.layers is None for source in self.slices[0].sources)


@dataclass(frozen=True)
class Rule:
    """What happens to the output tensors that `filter` is for, instead of merging (`tensors:`, our extension).

    keep: the base_model's tensor as it is; copy: that of `model`; exclude: it is not written, unless the output could
    not be loaded without it; exclude_anyway: not even then.
    """

    filter: str
    action: Literal["keep", "copy", "exclude", "exclude_anyway"]
    model: ModelRef | None = None


@dataclass(frozen=True)
class Recipe:
    """A merge, as the user stated it, checked for structure but not yet against any model or method.

    `models:` becomes one slice of whole models; a base_model that is not listed is no source of it (mergekit adds it
    as one). A recipe has `slices` or `modules` (kept sorted by name: a mapping has no order); `parts` are its modules
    either way. `source_ids` number the models for the random methods: by default their order of first appearance
    (then a base_model that is not listed, then models that only `rules` copy from); a campaign fixes them in its own
    order. `tensor_set` says which tensors files of tensors give (engine.planning.raw_targets). On construction, models
    without an id get the smallest free ones, and ids of models that are neither source nor base are dropped.
    `ignored` lists the keys that mergekit accepts and that mean nothing; `text` is the YAML it was read from, if
    any.
    """

    method: str
    slices: tuple[Slice, ...] = ()
    modules: tuple[Module, ...] = field(default=(), kw_only=True)
    rules: tuple[Rule, ...] = field(default=(), kw_only=True)
    base_model: ModelRef | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: str | None = None
    chat_template: str | None = None
    seed: int = 0
    source_ids: Mapping[ModelRef, int] = field(default_factory=dict)
    tensor_set: TensorSet = field(default="same", kw_only=True)
    origin: str = field(default="<recipe>", compare=False)
    ignored: tuple[str, ...] = field(default=(), compare=False)
    text: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "modules", tuple(sorted(self.modules, key=lambda module: module.name)))
        sources = self.named()
        given = {ref: number for ref, number in self.source_ids.items() if ref in sources}
        copied = [rule.model for rule in self.rules if rule.model is not None]
        object.__setattr__(self, "source_ids", number_sources([*sources, *copied], given, self.origin))

    def named(self) -> list[ModelRef]:
        """Every source, as often as it is named, in order of appearance, and the base."""
        listed = [source.model for part in self.all_slices for source in part.sources]
        return listed if self.base_model is None else [*listed, self.base_model]

    @property
    def parts(self) -> tuple[Module, ...]:
        """The modules; a recipe that names none is one nameless module."""
        return self.modules or (Module("", self.slices),)

    @property
    def all_slices(self) -> tuple[Slice, ...]:
        return tuple(part for module in self.parts for part in module.slices)

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """Every model named, in the order of their source ids."""
        return tuple(sorted(self.source_ids, key=lambda ref: self.source_ids[ref]))

    @property
    def opened(self) -> tuple[ModelRef, ...]:
        """All that is read: the models, then the importances of sources."""
        sources = (source for part in self.all_slices for source in part.sources)
        return (*self.models, *dict.fromkeys(source.importance for source in sources if source.importance is not None))

    @property
    def donor(self) -> ModelRef:
        """The model whose config the output starts from: base_model, else the first source (of the text module)."""
        if self.base_model is not None:
            return self.base_model
        modules = {module.name: module for module in reversed(self.parts)}
        text = next((modules[name] for name in _TEXT_MODULES if name in modules), self.parts[0])
        return text.slices[0].sources[0].model

    @property
    def tokenizer_model(self) -> ModelRef:
        """The model whose tokenizer the output gets: tokenizer_source, where nothing but a model means the donor.

        `union` is checked to be of equal vocabularies (planning.vocabulary_check), so the donor's is as good as any.
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
