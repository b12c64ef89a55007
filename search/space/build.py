"""make_space: a campaign's `space:` bound to models of so many layers, checked whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from search.space import checks
from search.space.axes import ALL, Axis, Need, Shape, Stage, Value, grid_of
from search.space.codec import METHOD, USE, Space
from search.space.depth import Depth
from search.space.entry import BLOCKED, KNOTTED, Choice, Range, StageEntry
from search.space.methods import MergeMethod
from search.space.sequence import PREFIX, LayerSequence

if TYPE_CHECKING:
    from search.campaign_file import Campaign


def make_space(campaign: Campaign, *, layers: int) -> Space:
    """Bind a campaign's space to models of `layers` layers.

    Raises CampaignError, naming file and key, for everything that can be seen without the tensors' names: a method or
    parameter that is not there, bounds that the method refuses, a stage with more blocks than there are layers, or one
    that cannot hold every point of the one before it, constraints that the start breaks.
    """
    methods = checks.check_entry(campaign)
    sequence = _sequence(campaign, layers)
    stages = tuple(_Builder(campaign, methods, sequence).stage(entry) for entry in campaign.space.stages)
    names = ("dtype", "out_dtype")
    extras = {name: value for name in names if (value := getattr(campaign, name)) is not None}
    if campaign.space.tokenizer_source is not None:
        extras["tokenizer_source"] = campaign.space.tokenizer_source
    space = Space(
        methods=methods,
        base_model=campaign.base_model,
        models=tuple(source.model for source in campaign.sources),
        sources=campaign.source_names,
        importance=tuple(source.importance for source in campaign.sources),
        ranges=campaign.space.parameters,
        fixed=campaign.space.fixed,
        extras=extras,
        layers=layers,
        seed=campaign.seed,
        stages=stages,
        sequence=sequence,
        origin=campaign.origin,
    )
    return checks.check_space(space, campaign)


def _sequence(campaign: Campaign, layers: int) -> LayerSequence | None:
    entry = campaign.space.layers
    if entry is None:
        return None
    checks.check_run(entry, layers, campaign.origin)
    own = layers // entry.run
    places = entry.places or max(own, entry.fewest or 0)
    return LayerSequence(
        sources=campaign.source_names,
        layers=layers,
        places=places,
        fewest=entry.fewest or min(own, places),
        run=entry.run,
        scale=entry.scale,
        scaled=entry.scaled,
    )


class _Builder:
    """Makes the stages of one campaign."""

    def __init__(self, campaign: Campaign, methods: tuple[MergeMethod, ...], sequence: LayerSequence | None) -> None:
        self.campaign, self.methods, self.sequence = campaign, methods, sequence
        self.entry = campaign.space

    def stage(self, entry: StageEntry) -> Stage:
        searched = entry.search or (*self.entry.parameters, METHOD, USE, PREFIX, "scale")
        shape = Shape(self._filters(entry), _depth(entry))
        shapes = {name: self._shape(name, shape if name in searched else Shape()) for name in self.entry.parameters}
        axes = [*self._chosen(searched)]
        chosen = self.methods if METHOD in searched else self.methods[:1]
        for name in self.entry.parameters:
            owners = [method for method in chosen if name in method.parameters]
            if name in searched and owners:
                axes += self._axes(name, shapes[name], owners, chosen)
        if self.sequence is not None:
            axes += self.sequence.axes(searched)
        return Stage(entry, shapes, tuple(axes), self.sequence)

    def _filters(self, entry: StageEntry) -> tuple[tuple[str, str], ...]:
        if entry.by == "patterns":
            return tuple(entry.patterns.items())
        return tuple(self.entry.modules.items()) if entry.by.startswith("module") else ()

    def _shape(self, name: str, shape: Shape) -> Shape:
        """Switches, choices and whole numbers are one for all tensors: nothing lies between two of their values."""
        whole = any(method.parameters[name].whole for method in self.methods if name in method.parameters)
        return Shape() if whole or isinstance(self.entry.parameters[name], Choice) else shape

    def _chosen(self, searched: tuple[str, ...]) -> Iterator[Axis]:
        """The axes of method and sources."""
        if METHOD in searched and len(self.methods) > 1:
            names = tuple(method.name for method in self.methods)
            yield Axis(METHOD, METHOD, start=names[0], kind="category", choices=names)
        if USE in searched and self.entry.subset:
            most = self.methods[0].most or len(self.campaign.sources)  # so that the start is one that may be
            for number, source in enumerate(self.campaign.source_names):
                yield Axis(f"{USE}/{source}", USE, number, start=number < most, kind="category", choices=(True, False))

    def _axes(
        self, name: str, shape: Shape, owners: list[MergeMethod], chosen: tuple[MergeMethod, ...]
    ) -> Iterator[Axis]:
        row, found = owners[0].parameters[name], self.entry.parameters[name]
        sources: list[int | None] = [*range(len(self.campaign.sources))] if row.scope == "model" else [None]
        for source in sources:
            needs: list[Need] = []
            if len(owners) < len(chosen):
                needs.append((METHOD, tuple(method.name for method in owners)))
            label = None if source is None else self.campaign.source_names[source]
            if source is not None and self.entry.subset:
                needs.append((f"{USE}/{label}", (True,)))
            for group, index in shape.places():
                parts = [name, label, group if group != ALL else None, None if index is None else str(index)]
                axis_name = "/".join(part for part in parts if part is not None)
                place = (axis_name, name, source, group, index)
                yield (
                    _number(place, found, row.whole, needs)
                    if isinstance(found, Range)
                    else Axis(*place, start=found.start, kind="category", choices=found.choices, needs=tuple(needs))
                )


def _number(place: tuple[str, str, int | None, str, int | None], found: Range, whole: bool, needs: list[Need]) -> Axis:
    start: Value = round(found.start) if whole else found.start
    return Axis(
        *place,
        low=found.low,
        high=found.high,
        start=start,
        grid=1 if whole else grid_of(place[1], found.low, found.high),
        kind="int" if whole else "float",
        needs=tuple(needs),
    )


def _depth(entry: StageEntry) -> Depth:
    if entry.blocks and entry.by in (*BLOCKED, "patterns"):
        return Depth("blocks", entry.blocks)
    if entry.knots and entry.by in (*KNOTTED, "patterns"):
        return Depth(entry.curve, entry.knots)
    return Depth()
