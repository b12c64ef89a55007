"""What is searched, as a campaign file says it under `space:`. docs/space.md lists every key.

Only what can be seen without the method's table and the models stands here; `checks.py` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from engine.errors import InputError
from engine.recipes.filters import parse_filter
from engine.recipes.keypath import KeyPath
from search.part import Name, Part

Granularity = Literal["global", "module", "layer_block", "module_layer", "gradient", "module_gradient", "patterns"]
Curve = Literal["linear", "cubic"]
BLOCKED = ("layer_block", "module_layer")
KNOTTED = ("gradient", "module_gradient")
RESERVED = ("all", "rest")
MOST_PLACES = 1024
"""Along the layers: more than any model has. Every one is an axis, and memory goes with the square of their number."""


class Range(Part):
    """Bounds of a searched parameter, and `start`: the first guess, and its value in stages that do not search it."""

    low: float
    high: float
    start: float

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low <= self.start <= self.high or self.low == self.high:
            raise ValueError(f"want low <= start <= high and low < high, got {self.low}, {self.start}, {self.high}")
        return self


class Choice(Part):
    """Values of a switch (or of a number that is to be one of a few); `[true, false]` is short for `choices:`.

    `start` is the first guess and the value in stages that do not search it; the first choice where nothing is given.
    """

    choices: tuple[bool | float, ...] = Field(min_length=2)
    start: bool | float = 0.0

    @model_validator(mode="before")
    @classmethod
    def _short(cls, raw: Any) -> Any:
        data = {"choices": list(raw)} if isinstance(raw, list | tuple) else raw
        if isinstance(data, dict) and data.get("choices") and "start" not in data:
            data = {**data, "start": data["choices"][0]}
        return data

    @model_validator(mode="after")
    def _distinct(self) -> Choice:
        if len(set(self.choices)) < len(self.choices):
            raise ValueError("choices: one of them is there twice")
        if self.start not in self.choices:
            raise ValueError(f"start: got {self.start}, one of {', '.join(map(str, self.choices))} expected")
        return self


def _kind(raw: Any) -> str:
    chosen = isinstance(raw, list | tuple | Choice) or (isinstance(raw, Mapping) and "choices" in raw)
    return "[choice]" if chosen else "[range]"


# the tags have brackets, so that error messages leave them out of the key (campaign_file._explained)
Searched = Annotated[Annotated[Range, Tag("[range]")] | Annotated[Choice, Tag("[choice]")], Discriminator(_kind)]


class LayersEntry(Part):
    """The output's layers as a sequence: at each of `places` a run of `run` layers of one source (passthrough).

    Between `fewest` and `places` of them are used; by default both are the models' own depth. `scale` is a factor for
    what a repeated layer adds to the residual stream, so it holds for the tensors that `scaled` matches.
    """

    places: int | None = Field(default=None, ge=1, le=MOST_PLACES)
    fewest: int | None = Field(default=None, ge=1, le=MOST_PLACES)
    run: int = Field(default=1, ge=1)
    scale: Range | None = None
    scaled: tuple[str, ...] = ("o_proj", "down_proj")

    @model_validator(mode="after")
    def _ordered(self) -> LayersEntry:
        if self.places is not None and self.fewest is not None and self.fewest > self.places:
            raise ValueError(f"want fewest <= places, got {self.fewest} and {self.places}")
        return self


class StageEntry(Part):
    """One step of the ladder from coarse to fine.

    `by` says over what a parameter varies; `blocks` belongs to layer_block and module_layer, `knots` and `curve` to
    gradient and module_gradient, `patterns` (name → filter of tensor names, the first match wins) to patterns, which
    may have blocks or knots, too. `candidates` ends the stage (the last one ends with the budget).
    `blocks_at_a_time`: every draw moves in so many blocks of coordinates only (0: in all; for cma).
    `sigma` is in units of the range's width; `population` 0 means 1.5 · dimensions, at least 6 and at most 60.
    """

    name: Name = Field(min_length=1)
    by: Granularity = "global"
    blocks: int = Field(default=0, ge=0, le=MOST_PLACES)
    knots: int = Field(default=0, ge=0, le=MOST_PLACES)
    curve: Curve = "linear"
    patterns: Mapping[str, str] = {}
    search: tuple[str, ...] = ()
    population: int = Field(default=0, ge=0)
    sigma: float = Field(default=0.15, gt=0, le=1)
    sobol: int = Field(default=0, ge=0)
    candidates: int | None = Field(default=None, ge=1)
    blocks_at_a_time: int = Field(default=0, ge=0)

    @field_validator("patterns")
    @classmethod
    def _patterns_parse(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        return checked_filters(value)

    @model_validator(mode="after")
    def _depth_given(self) -> StageEntry:
        if self.by in BLOCKED and self.blocks < 1:
            raise ValueError(f"by: {self.by} needs `blocks`, the number of layer blocks")
        if (self.by in KNOTTED and self.knots < 2) or self.knots == 1:
            raise ValueError(f"by: {self.by} needs `knots`, 2 or more")
        if self.by == "patterns" and not self.patterns:
            raise ValueError("by: patterns needs `patterns`, names and filters: {attention: self_attn, ...}")
        for key, given, owners in (
            ("blocks", self.blocks, (*BLOCKED, "patterns")),
            ("knots", self.knots, (*KNOTTED, "patterns")),
            ("patterns", self.patterns, ("patterns",)),
            ("curve", self.curve == "cubic", (*KNOTTED, "patterns")),
        ):
            if given and self.by not in owners:
                raise ValueError(f"by: {self.by} has no `{key}`; it belongs to {', '.join(owners)}")
        if self.blocks and self.knots:
            raise ValueError("`blocks` and `knots`: only one of them")
        if self.curve == "cubic" and self.knots < 3:
            raise ValueError(f"curve: cubic needs 3 knots or more, got {self.knots}")
        return self


class SpaceEntry(Part):
    """What is searched. `fixed` are recipe parameters that stay constant, `modules` tensor-name filters by group.

    `use_base` gives the base to a method that can do without one (multislerp, nuslerp); `subset` searches which of the
    sources take part; `constraints` are comparisons of parameters, which every candidate satisfies.
    """

    method: str | tuple[str, ...] = "task_arithmetic"
    parameters: Mapping[str, Searched] = {}
    fixed: Mapping[str, float | bool] = {}
    modules: Mapping[str, str] = {"attention": "self_attn", "mlp": "mlp"}
    use_base: bool = False
    subset: bool = False
    layers: LayersEntry | None = None
    constraints: tuple[str, ...] = ()
    tokenizer_source: str | None = None
    stages: tuple[StageEntry, ...] = Field(min_length=1)

    @field_validator("method")
    @classmethod
    def _some_methods(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = (value,) if isinstance(value, str) else value
        if not names or len(set(names)) < len(names):
            raise ValueError("a method, or several different ones, expected")
        return value

    @field_validator("modules")
    @classmethod
    def _modules_parse(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        return checked_filters(value)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods to choose from; the first is the one that stages without `method` take."""
        return (self.method,) if isinstance(self.method, str) else self.method


def checked_filters(value: Mapping[str, str]) -> Mapping[str, str]:
    """Groups of tensors: ValueError for a name that would be misread, or a filter that the engine would refuse."""
    for name, text in value.items():
        if not name or name in RESERVED or "/" in name:
            raise ValueError(f"got the name {name!r}; any name without '/' but {' and '.join(RESERVED)} expected")
        if text in ("", "*"):
            raise ValueError(f"{name}: got {text!r}, which matches every tensor; what no filter matches is the rest")
        try:
            parse_filter(text, KeyPath(name))
        except InputError as error:
            raise ValueError(str(error)) from None
    return value
