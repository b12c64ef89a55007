"""The report's figures of the search: history over all candidates; importances and parallel coordinates of the last
stage that was searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from search.report.importance import Axis, importances
from search.report.plots import BLUE, COLOURS, MUTED, Figure, layout, shortened
from search.results import CandidateRow, Results
from search.space import Value
from search.space.entry import Range

PARALLEL_AXES = 10  # more cannot be told apart
PARALLEL_LINES = 100
PARALLEL_PX = 56  # least width of an axis
BARS = 20
NAME_LETTERS = 20  # below a parallel axis
TICKS = 5
SCALE = ("#dbeafe", "#93c5fd", "#3b82f6", "#1e3a8a")  # low to high scores
HISTORY = "Estimates are shrunk and comparable between windows of items."
IMPORTANCE = "The share of the estimates' variation that goes with each parameter (PED-ANOVA)."


def search_figures(results: Results) -> list[Figure]:
    """Those that there is enough to draw for."""
    scored = [row for row in results.candidates if row.estimate is not None]
    if not scored:
        return []
    made = [_history(sorted(scored, key=lambda row: row.number))]
    last = _last_stage(results, scored)
    if len(last) < 3:
        return made
    stage, axes = last[0].stage, _axes(results, last)
    weighed = importances(axes, [row.estimate or 0.0 for row in last])
    if weighed:
        made.append(_importance(weighed, stage))
    names = (list(weighed) or sorted(axes))[:PARALLEL_AXES]
    best = sorted(range(len(last)), key=lambda place: -(last[place].estimate or 0.0))[:PARALLEL_LINES]
    caption = f"The best {len(best)} candidates over {len(names)} of {len(axes)} parameters"
    caption += ", the most important ones." if weighed else "."
    chosen = {name: axes[name].taken(best) for name in sorted(names)}
    drawn = _parallel(chosen, [last[place].estimate or 0.0 for place in best])
    made.append(Figure(f"Parallel coordinates, stage {stage}", *drawn, caption, 120 + PARALLEL_PX * (len(names) + 1)))
    return made


def _last_stage(results: Results, scored: Sequence[CandidateRow]) -> list[CandidateRow]:
    """Candidates of the finest stage that scored any, all with the same parameters."""
    for entry in reversed(results.campaign.space.stages):
        rows = [row for row in scored if row.stage == entry.name and row.params]
        if rows:
            return [row for row in rows if set(row.params) == set(rows[0].params)]
    return []


def _axes(results: Results, rows: Sequence[CandidateRow]) -> dict[str, Axis]:
    """Every parameter, by its short name. One without bounds (layers of a sequence) lies between the values it took."""
    ranges = results.campaign.space.parameters
    short = _short_names(list(rows[0].params))
    found = {}
    for name in rows[0].params:
        values: list[Value] = [row.params[name] for row in rows]
        bounds = ranges.get(name.split("/", 1)[0])
        if isinstance(bounds, Range):
            found[short[name]] = Axis(values, bounds.low, bounds.high)
        elif any(isinstance(value, bool | str) for value in values):
            found[short[name]] = Axis(values, choices=tuple(dict.fromkeys(values)))
        else:
            found[short[name]] = Axis(values, min(map(float, values)), max(map(float, values)))
    return found


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """`weight/letters/mlp/1` → `letters mlp 1` where all begin with `weight`; `all` says nothing and goes too."""
    parts = {name: name.split("/") for name in names}
    same = len({part[0] for part in parts.values()}) == 1
    return {name: " ".join(word for word in part[same:] if word != "all") or name for name, part in parts.items()}


def _history(rows: Sequence[CandidateRow]) -> Figure:
    """Estimates over candidate numbers, coloured by stage, and the best so far."""
    stages = list(dict.fromkeys(row.stage or row.origin for row in rows))
    points = [
        _points(stage, COLOURS[place % len(COLOURS)], [row for row in rows if (row.stage or row.origin) == stage])
        for place, stage in enumerate(stages)
    ]
    best = {
        "type": "scatter",
        "x": [row.number for row in rows],
        "y": list(accumulate((row.estimate or 0.0 for row in rows), max)),
        "mode": "lines",
        "line": {"color": MUTED, "width": 1.5},
        "name": "best so far",
    }
    legend = {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}
    drawn = layout(height=380, x={"title": "candidate"}, y={"title": "estimated score"}, legend=legend)
    return Figure("Optimisation history", [*points, best], drawn, HISTORY)


def _points(stage: str, colour: str, rows: Sequence[CandidateRow]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": [row.number for row in rows],
        "y": [row.estimate for row in rows],
        "text": [row.label for row in rows],
        "mode": "markers",
        "name": stage,
        "marker": {"color": colour, "size": 7, "opacity": 0.8},
        "hovertemplate": "%{text}: %{y:.3f}<extra></extra>",
    }


def _importance(weighed: Mapping[str, float], stage: str) -> Figure:
    """The most important parameters, the first on top."""
    shown = list(weighed.items())[:BARS]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [share for _, share in shown],
        "y": [name for name, _ in shown],
        "text": [f"{share:.2f}" if share >= 0.01 else "<0.01" for _, share in shown],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": BLUE},
        "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
    }
    x = {"range": [0, 1.15 * max(weighed.values())]}
    y = {"type": "category", "autorange": "reversed"}
    drawn = layout(height=90 + 22 * len(shown), left=170, x=x, y=y, showlegend=False)
    return Figure(f"Importance of parameters, stage {stage}", [bars], drawn, IMPORTANCE)


def _parallel(axes: Mapping[str, Axis], scores: Sequence[float]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A line per candidate through its score and its parameters, each axis from the least to the largest value drawn;
    the best candidates come first, so they are drawn last."""
    columns = {"score": Axis(scores, min(scores), max(scores)), **axes}
    scales = [_Scale(axis) for axis in columns.values()]
    places = list(range(len(columns)))
    lines = [
        {
            "type": "scatter",
            "x": places,
            "y": [scale.at(axis.values[row]) for scale, axis in zip(scales, columns.values(), strict=True)],
            "text": [f"{name}: {_text(axis.values[row])}" for name, axis in columns.items()],
            "mode": "lines",
            "line": {"color": _colour(scales[0].at(score)), "width": 1.2},
            "opacity": 0.5,
            "showlegend": False,
            "hovertemplate": "%{text}<extra></extra>",
        }
        for row, score in reversed(list(enumerate(scores)))
    ]
    names = [shortened(name, NAME_LETTERS) for name in columns]
    x = {"tickvals": places, "ticktext": names, "range": [-0.2, len(columns) - 0.8]}
    drawn = layout(
        height=460,
        x=x | {"showgrid": False, "zeroline": False},
        y={"range": [-0.08, 1.08], "visible": False, "fixedrange": True},
        annotations=[_tick(place, at, text) for place, scale in enumerate(scales) for at, text in scale.ticks()],
        shapes=[_upright(place) for place in places],
    )
    return [*lines, _colour_bar(scores)], drawn


class _Scale:
    """Where values stand on an upright axis, from 0 to 1; categories are equally far from each other."""

    def __init__(self, axis: Axis) -> None:
        self._choices = list(dict.fromkeys(axis.values)) if axis.choices else None
        numbers = range(len(self._choices)) if self._choices else list(map(float, axis.values))
        self._low, self._high = float(min(numbers)), float(max(numbers))

    def at(self, value: Value) -> float:
        number = float(self._choices.index(value) if self._choices else value)
        return 0.5 if self._low == self._high else (number - self._low) / (self._high - self._low)

    def ticks(self) -> list[tuple[float, str]]:
        if self._choices:
            return [(self.at(choice), str(choice)) for choice in self._choices]
        if self._low == self._high:
            return [(0.5, _text(self._low))]
        places = [step / (TICKS - 1) for step in range(TICKS)]
        return [(place, _text(self._low + place * (self._high - self._low))) for place in places]


def _text(value: Value) -> str:
    return str(value) if isinstance(value, bool | str) else f"{value:.3g}"


def _tick(place: int, at: float, text: str) -> dict[str, Any]:
    font = {"size": 10, "color": MUTED}
    return {"x": place, "y": at, "text": text, "showarrow": False, "xanchor": "right", "xshift": -4, "font": font}


def _upright(place: int) -> dict[str, Any]:
    line = {"color": "#888", "width": 1}
    return {"type": "line", "x0": place, "x1": place, "y0": 0, "y1": 1, "line": line, "layer": "below"}


def _colour(place: float) -> str:
    """The colour at this place, 0 to 1, of the scale."""
    lower = min(int(place * (len(SCALE) - 1)), len(SCALE) - 2)
    rest = place * (len(SCALE) - 1) - lower
    ends = [[int(code[at : at + 2], 16) for at in (1, 3, 5)] for code in SCALE[lower : lower + 2]]
    mixed = (round(low + rest * (high - low)) for low, high in zip(*ends, strict=True))
    return f"rgb({', '.join(map(str, mixed))})"


def _colour_bar(scores: Sequence[float]) -> dict[str, Any]:
    """A trace without points, whose colours are explained."""
    low, high = min(scores), max(scores)
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    scale = [[place / (len(SCALE) - 1), colour] for place, colour in enumerate(SCALE)]
    colours = {"color": [low, high], "cmin": low, "cmax": high, "colorscale": scale, "showscale": True}
    bar = {"title": {"text": "score"}, "outlinewidth": 0, "thickness": 16}
    return {
        "type": "scatter",
        "x": [None, None],
        "y": [None, None],
        "mode": "markers",
        "marker": {**colours, "colorbar": bar},
        "showlegend": False,
        "hoverinfo": "skip",
    }
