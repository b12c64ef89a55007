"""The figures of the report: the winner's margins, the heat maps of its weights, the front, the search."""

from __future__ import annotations

import math
from collections.abc import Sequence

from search.ports import Verdict
from search.report.front import front_figures
from search.report.plots import GRID, INK, LOST, MUTED, WON, Figure, interval, layout, shortened
from search.report.searching import search_figures
from search.report.weights import HeatMap
from search.results import Results

WEIGHTS = ("#f8fafc", "#dbeafe", "#93c5fd", "#3b82f6", "#1e40af")  # light to dark, one hue: magnitudes, no sign
BELOW, NOTHING = "#b45309", "#f8fafc"  # another hue for negative weights
HEAT_PX = 26  # least width of a column of a heat map
ROW_PX = 30
LABEL_LETTERS = 22  # of a comparator, so that a phone has room for its point, too
MARGINS = "The winner's holdout score minus the comparator's, with the 95 % interval; right of 0 is better."


def figures(results: Results, heats: Sequence[HeatMap]) -> dict[str, list[Figure]]:
    """Figures by place on the page: margins, weights, search. Empty lists where there is nothing to draw."""
    verdict = results.verdict
    return {
        "margins": [_margins(verdict)] if verdict is not None and verdict.comparisons else [],
        "weights": [_heat(heat) for heat in heats],
        "search": [*front_figures(results), *search_figures(results)],
    }


def _margins(verdict: Verdict) -> Figure:
    """Difference to each comparator with its two-sided 95 % interval; 0 is the line to stay clear of."""
    found = sorted(verdict.comparisons, key=lambda entry: entry.difference)
    differences = [entry.difference for entry in found]
    points = {
        "type": "scatter",
        "x": differences,
        "y": list(range(len(found))),  # by place: two comparators may have one name
        "mode": "markers",
        "marker": {"size": 9, "color": [WON if entry.beaten else LOST for entry in found]},
        "error_x": interval(differences, [entry.interval for entry in found], color=MUTED, thickness=1.5),
        "text": [entry.label for entry in found],
        "customdata": [[entry.score, entry.lower] for entry in found],
        "hovertemplate": "%{text} (%{customdata[0]:.3f}): %{x:+.3f}, lower bound %{customdata[1]:+.3f}<extra></extra>",
    }
    ends = [0.0, *(end for entry in found for end in entry.interval)]
    room = 0.05 * (max(ends) - min(ends)) or 0.01
    # Ranges of our own: those that plotly finds depend on the width that the labels leave.
    x = {"range": [min(ends) - room, max(ends) + room], "zeroline": True, "zerolinecolor": INK, "zerolinewidth": 1}
    y = {"range": [len(found) - 0.5, -0.5], "showgrid": False, "zeroline": False}
    names = [shortened(entry.label, LABEL_LETTERS) for entry in found]
    y |= {"tickvals": list(range(len(found))), "ticktext": names}
    return Figure("", [points], layout(height=90 + ROW_PX * len(found), left=90, x=x, y=y), MARGINS)


def _heat(heat: HeatMap) -> Figure:
    small = len(heat.columns) * len(heat.rows) <= 400
    known = [value for row in heat.values for value in row if math.isfinite(value)]
    top, bottom = max(known, default=1.0) or 1.0, min([0.0, *known])
    scale = [BELOW, NOTHING, WEIGHTS[-1]] if bottom < 0 else list(WEIGHTS)
    reach = max(top, -bottom)
    cells = {
        "type": "heatmap",
        "x": heat.columns,
        "y": heat.rows,
        "z": [[value if math.isfinite(value) else None for value in row] for row in heat.values],
        "zmin": -reach if bottom < 0 else 0.0,
        "zmax": reach,
        "colorscale": [[place / (len(scale) - 1), colour] for place, colour in enumerate(scale)],
        "xgap": 2,
        "ygap": 2,
        "hovertemplate": "%{y}, %{x}: %{z:.4f}<extra></extra>",
        "colorbar": {"thickness": 12, "outlinewidth": 0},
        **({"texttemplate": "%{z:.0f}" if heat.whole else "%{z:.2f}"} if small else {}),
    }
    x = {"type": "category", "side": "bottom", "gridcolor": GRID}
    drawn = layout(height=110 + ROW_PX * len(heat.rows), left=160, x=x, y={"type": "category", "autorange": "reversed"})
    title = f"{heat.parameter[:1].upper()}{heat.parameter[1:]} by layer and source"
    return Figure(title, [cells], drawn, min_width_px=240 + HEAT_PX * len(heat.columns))
