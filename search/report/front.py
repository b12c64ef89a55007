"""The report's figure of several objectives: all candidates of the search, and the front as the holdout sees it."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from search.ports import Verdict
from search.report.plots import BLUE, Figure, interval, layout
from search.results import Results

PAIRS = 3  # figures at most: three objectives have three pairs
CAPTION = "Light: candidates on their search window. Dark: the front on the holdout, with 95 % intervals."


def front_figures(results: Results) -> list[Figure]:
    """One figure for every pair of objectives (the first three pairs); nothing without a front."""
    verdict = results.verdict
    if verdict is None or not verdict.front:
        return []
    pairs = list(combinations(range(len(verdict.objectives)), 2))[:PAIRS]
    return [_figure(results, verdict, x, y) for x, y in pairs]


def _figure(results: Results, verdict: Verdict, x: int, y: int) -> Figure:
    names, members = verdict.objectives, verdict.front
    searched = [row for row in results.candidates if row.values]
    shared = {"type": "scatter", "mode": "markers", "hovertemplate": "%{text}: %{x:.3f}, %{y:.3f}<extra></extra>"}
    light = {
        "x": [row.values[x] for row in searched],
        "y": [row.values[y] for row in searched],
        "marker": {"size": 6, "color": "#cbd5e1"},
        "text": [row.label for row in searched],
    }
    dark = {
        "x": [member.values[x] for member in members],
        "y": [member.values[y] for member in members],
        "error_x": _errors(verdict, x),
        "error_y": _errors(verdict, y),
        "marker": {"size": 10, "color": BLUE, "symbol": ["star", *["circle"] * (len(members) - 1)]},
        "text": [f"{member.label} (on the front: {100 * member.chance:.0f} %)" for member in members],
    }
    drawn = layout(height=380, x={"title": names[x]}, y={"title": names[y]}, showlegend=False)
    return Figure(f"Front: {names[x]} against {names[y]}", [shared | light, shared | dark], drawn, CAPTION)


def _errors(verdict: Verdict, column: int) -> dict[str, Any]:
    values = [member.values[column] for member in verdict.front]
    return interval(values, [member.intervals[column] for member in verdict.front], thickness=1.2)
