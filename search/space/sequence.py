"""Layer sequences (frankenmerges): which layer of which source stands at each place of the output. Pure.

A *place* holds a run of consecutive layers of one source. Its axes are `layers/P/source` and `layers/P/layer` (the
run's first layer); `layers/depth` is the number of places in use, so places behind it make no difference.
`layers/P/scale` exists only where the place repeats a layer that stands at an earlier one, from whichever source: two
models of one family do the same thing there, and doing it twice at full strength is what breaks such merges. It scales
what the run adds to the residual stream: the tensors that `scaled` matches, attention's and mlp's last ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.space.axes import Axis, Need, Params, Value, grid_of
from search.space.entry import Range

PREFIX = "layers"
DEPTH = f"{PREFIX}/depth"


@dataclass(frozen=True)
class Place:
    """A run of layers [first, first + run) of one source, and its scale (None: as it is)."""

    source: int
    first: int
    scale: float | None = None


@dataclass(frozen=True)
class LayerSequence:
    """The space of sequences over `layers` layers of `sources`."""

    sources: tuple[str, ...]
    layers: int
    places: int
    fewest: int
    run: int = 1
    scale: Range | None = None
    scaled: tuple[str, ...] = ()

    @property
    def usual(self) -> int:
        """Places in use at the start: the models' own depth, where it is allowed."""
        return min(max(self.fewest, self.layers // self.run), self.places)

    def axes(self, searched: Sequence[str]) -> Iterator[Axis]:
        """The axes of a stage that searches these of `layers` and `scale`."""
        if PREFIX in searched and self.fewest < self.places:
            yield Axis(DEPTH, PREFIX, low=self.fewest, high=self.places, start=self.usual, grid=1, kind="int")
        for place in range(self.places):
            used = () if place < self.fewest else ((DEPTH, tuple(range(place + 1, self.places + 1))),)
            if PREFIX in searched:
                yield from self._axes_of(place, used)
            if "scale" in searched and self.scale is not None:
                yield self._scale_of(place, self.scale, used)

    def _scale_of(self, place: int, scale: Range, used: tuple[Need, ...]) -> Axis:
        return Axis(
            name_of(place, "scale"),
            "scale",
            index=place,
            low=scale.low,
            high=scale.high,
            start=scale.start,
            grid=grid_of("scale", scale.low, scale.high),
            needs=used,
        )

    def _axes_of(self, place: int, used: tuple[Need, ...]) -> Iterator[Axis]:
        if len(self.sources) > 1:
            yield Axis(
                name_of(place, "source"), PREFIX, index=place, start=self.sources[0],
                kind="category", choices=self.sources, needs=used,
            )  # fmt: skip
        last = self.layers - self.run
        if last:
            yield Axis(
                name_of(place, "layer"), PREFIX, index=place, low=0, high=last, start=self.first_of(place),
                grid=1, kind="int", needs=used,
            )  # fmt: skip

    def first_of(self, place: int) -> int:
        """The first layer at a place of the starting sequence: the model as it is, its last run repeated."""
        return min(place * self.run, self.layers - self.run)

    def read(self, params: Params) -> list[Place]:
        """The sequence that a point stands for; whatever it does not say is as at the start."""
        depth = int(params.get(DEPTH, self.usual))
        return [self._place(params, place) for place in range(depth)]

    def _place(self, params: Params, place: int) -> Place:
        source = str(params.get(name_of(place, "source"), self.sources[0]))
        scale = None
        if self.scale is not None and self.repeats(params, place):
            scale = float(params.get(name_of(place, "scale"), self.scale.start))
        return Place(self.sources.index(source), self._first(params, place), scale)

    def repeats(self, params: Params, place: int) -> bool:
        """Whether a layer of this place stands at an earlier one, too."""
        first = self._first(params, place)
        return any(abs(self._first(params, earlier) - first) < self.run for earlier in range(place))

    def _first(self, params: Params, place: int) -> int:
        return int(params.get(name_of(place, "layer"), self.first_of(place)))

    def slices(self, places: Sequence[Place], models: Sequence[str]) -> list[dict[str, Any]]:
        """mergekit's slices; places that continue the one before them become one slice."""
        joined: list[tuple[Place, int]] = []
        for place in places:
            if joined:
                before, end = joined[-1]
                if (before.source, before.scale, end) == (place.source, place.scale, place.first):
                    joined[-1] = (before, end + self.run)
                    continue
            joined.append((place, place.first + self.run))
        return [{"sources": [self._source(place, end, models)]} for place, end in joined]

    def _source(self, place: Place, end: int, models: Sequence[str]) -> dict[str, Any]:
        source: dict[str, Any] = {"model": models[place.source], "layer_range": [place.first, end]}
        if place.scale is None:
            return source
        choices = [*({"filter": text, "value": place.scale} for text in self.scaled), {"value": 1.0}]
        return source | {"parameters": {"scale": choices}}

    def point(self, recipe: Mapping[str, Any], models: Sequence[str]) -> dict[str, Value]:
        """Values of the axes from a recipe's slices. KeyError, IndexError or TypeError where it has none of ours."""
        found: dict[str, Value] = {}
        runs: list[tuple[int, int, float | None]] = []
        for part in recipe["slices"]:
            (source,) = part["sources"]
            scale = source.get("parameters", {}).get("scale")
            start, end = source["layer_range"]
            for first in range(start, end, self.run):
                runs.append((list(models).index(source["model"]), first, None if scale is None else scale[0]["value"]))
        for place, (number, first, scale) in enumerate(runs):
            found |= {name_of(place, "source"): self.sources[number], name_of(place, "layer"): first}
            if scale is not None:
                found[name_of(place, "scale")] = scale
        return found | {DEPTH: len(runs)}


def name_of(place: int, what: str) -> str:
    """The axis of a place."""
    return f"{PREFIX}/{place}/{what}"
