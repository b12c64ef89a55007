"""The report's figure of several objectives: all candidates of the search, and the front as the holdout sees it."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from search.ports import Verdict
from search.results import Results

if TYPE_CHECKING:
    import plotly.graph_objects as go

PAIRS = 3  # figures at most: three objectives have three pairs
CAPTION = "Light: candidates on their search window. Dark: the front on the holdout, with 95 % intervals."


def front_figures(results: Results) -> list[tuple[str, go.Figure, str]]:
    """One figure for every pair of objectives (the first three pairs); nothing without a front."""
    verdict = results.verdict
    if verdict is None or not verdict.front:
        return []
    pairs = list(combinations(range(len(verdict.objectives)), 2))[:PAIRS]
    names = verdict.objectives
    return [(f"Front: {names[x]} against {names[y]}", _figure(results, verdict, x, y), CAPTION) for x, y in pairs]


def _figure(results: Results, verdict: Verdict, x: int, y: int) -> go.Figure:
    import plotly.graph_objects as go

    from search.report.figures import BLUE, GRID, styled

    searched = [row for row in results.candidates if row.values]
    members = verdict.front
    figure = go.Figure()
    figure.add_scatter(
        x=[row.values[x] for row in searched],
        y=[row.values[y] for row in searched],
        mode="markers",
        marker={"size": 6, "color": "#cbd5e1"},
        text=[row.label for row in searched],
        hovertemplate="%{text}: %{x:.3f}, %{y:.3f}<extra></extra>",
    )
    figure.add_scatter(
        x=[member.values[x] for member in members],
        y=[member.values[y] for member in members],
        error_x=_errors(verdict, x),
        error_y=_errors(verdict, y),
        mode="markers",
        marker={"size": 10, "color": BLUE, "symbol": ["star", *["circle"] * (len(members) - 1)]},
        text=[f"{member.label} (on the front: {100 * member.chance:.0f} %)" for member in members],
        hovertemplate="%{text}: %{x:.3f}, %{y:.3f}<extra></extra>",
    )
    figure.update_xaxes(title=verdict.objectives[x], gridcolor=GRID)
    figure.update_yaxes(title=verdict.objectives[y], gridcolor=GRID)
    figure.update_layout(showlegend=False)
    return styled(figure, height=380)


def _errors(verdict: Verdict, column: int) -> dict[str, object]:
    values = [(member.values[column], *member.intervals[column]) for member in verdict.front]
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, _, high in values],
        "arrayminus": [value - low for value, low, _ in values],
        "thickness": 1.2,
    }
