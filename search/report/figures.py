"""The figures of the report, each as an HTML fragment: Optuna's own plots, the weight heat map, the winner's margins.

Plotly's script goes with the first fragment that is asked for and with no other, so that the page needs no network.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.mirror import shared_trials
from search.report.front import front_figures
from search.results import CandidateRow, Results
from search.space import Value
from search.space.entry import Choice, Range

if TYPE_CHECKING:
    import optuna
    import plotly.graph_objects as go
    from optuna.distributions import BaseDistribution

    from search.report.weights import HeatMap

INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
WON, LOST, BLUE = "#15803d", "#b45309", "#2563eb"
COLOURS = (BLUE, "#d97706", "#7c3aed", "#0d9488", "#be185d", "#64748b")
WEIGHTS = ("#f8fafc", "#dbeafe", "#93c5fd", "#3b82f6", "#1e40af")  # light to dark, one hue: magnitudes, no sign
BELOW, NOTHING = "#b45309", "#f8fafc"  # another hue for negative weights
PARALLEL_AXES = 10  # more cannot be told apart
PARALLEL_LINES = 100
PARALLEL_PX, HEAT_PX = 56, 26  # least width of an axis, and of a column of a heat map
IMPORTANCE = "The share of the estimates' variation that goes with each parameter (PED-ANOVA)."
ROW_PX = 30
MARGINS = "The winner's holdout score minus the comparator's, with the 95 % interval; right of 0 is better."
TITLE_LETTERS = 30  # what an axis title may be long on a phone


@dataclass(frozen=True)
class Figure:
    """A figure with its caption; `html` is plotly's own markup."""

    title: str
    html: str
    caption: str = ""
    min_width_px: int = 0  # on a narrower screen it is scrolled


def figures(results: Results, heats: Sequence[HeatMap]) -> dict[str, list[Figure]]:
    """Figures by place on the page: margins, weights, search. Empty lists where there is nothing to draw."""
    made: dict[str, list[tuple[str, go.Figure, str]]] = {"margins": [], "weights": [], "search": []}
    if results.verdict is not None and results.verdict.comparisons:
        made["margins"].append(("", _margins(results), MARGINS))
    made["weights"] = [(f"{heat.parameter.title()} by layer and source", _heat(heat), "") for heat in heats]
    made["search"] = [*front_figures(results), *_search_figures(results)]
    from plotly.offline import get_plotlyjs

    scripts = iter([f"<script>{get_plotlyjs()}</script>"])
    return {
        place: [
            Figure(title, next(scripts, "") + _html(figure), caption, figure.layout.meta or 0)
            for title, figure, caption in found
        ]
        for place, found in made.items()
    }


def _html(figure: go.Figure) -> str:
    options = {"displayModeBar": False, "responsive": True}
    html: str = figure.to_html(full_html=False, include_plotlyjs=False, config=options)
    return html


def styled(figure: go.Figure, *, height: int, left: int = 60) -> go.Figure:
    """The page's font and colours over Optuna's defaults; the title is in the page, not in the figure."""
    figure.update_layout(
        template="plotly_white",
        title=None,
        height=height,
        margin={"l": left, "r": 20, "t": 20, "b": 50 if figure.layout.xaxis.title.text else 30},
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    figure.update_xaxes(title_font={"size": 12, "color": MUTED}, title_text=_wrapped(figure.layout.xaxis.title.text))
    figure.update_yaxes(title_font={"size": 12, "color": MUTED}, title_text=_wrapped(figure.layout.yaxis.title.text))
    return figure


def _wrapped(title: str | None) -> str | None:
    """An axis title in lines that a phone shows whole."""
    return None if title is None else "<br>".join(textwrap.wrap(title, TITLE_LETTERS))


def _margins(results: Results) -> go.Figure:
    """Difference to each comparator with its two-sided 95 % interval; 0 is the line to stay clear of."""
    import plotly.graph_objects as go

    assert results.verdict is not None
    found = sorted(results.verdict.comparisons, key=lambda entry: entry.difference)
    figure = go.Figure(
        go.Scatter(
            x=[entry.difference for entry in found],
            y=[entry.label for entry in found],
            mode="markers",
            marker={"size": 9, "color": [WON if entry.beaten else LOST for entry in found]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [entry.interval[1] - entry.difference for entry in found],
                "arrayminus": [entry.difference - entry.interval[0] for entry in found],
                "color": MUTED,
                "thickness": 1.5,
            },
            customdata=[[entry.score, entry.lower] for entry in found],
            hovertemplate="%{y} (%{customdata[0]:.3f}): %{x:+.3f}, lower bound %{customdata[1]:+.3f}<extra></extra>",
        )
    )
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    figure.update_xaxes(gridcolor=GRID, zeroline=False)
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    return styled(figure, height=90 + ROW_PX * len(found), left=160)


def _heat(heat: HeatMap) -> go.Figure:
    import plotly.graph_objects as go

    small = len(heat.columns) * len(heat.rows) <= 400
    known = [value for row in heat.values for value in row if math.isfinite(value)]
    top, bottom = max(known, default=1.0) or 1.0, min([0.0, *known])
    scale = [BELOW, NOTHING, WEIGHTS[-1]] if bottom < 0 else list(WEIGHTS)
    reach = max(top, -bottom)
    figure = go.Figure(
        go.Heatmap(
            x=heat.columns,
            y=heat.rows,
            z=[[value if math.isfinite(value) else None for value in row] for row in heat.values],
            zmin=-reach if bottom < 0 else 0.0,
            zmax=reach,
            colorscale=[[place / (len(scale) - 1), colour] for place, colour in enumerate(scale)],
            texttemplate="%{z:.2f}" if small else None,
            xgap=2,
            ygap=2,
            hovertemplate="%{y}, %{x}: %{z:.4f}<extra></extra>",
            colorbar={"thickness": 12, "outlinewidth": 0},
        )
    )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(type="category", side="bottom")
    figure.update_layout(meta=240 + HEAT_PX * len(heat.columns))
    return styled(figure, height=110 + ROW_PX * len(heat.rows), left=160)


def _search_figures(results: Results) -> list[tuple[str, go.Figure, str]]:
    """History over all candidates; importances and parallel coordinates of the last stage searched."""
    scored = [row for row in results.candidates if row.estimate is not None]
    if not scored:
        return []
    made = [("Optimisation history", _history(scored), "Estimates are shrunk and comparable between windows of items.")]
    last = _last_stage(results, scored)
    if len(last) < 3:
        return made
    study, stage = _study(results, last), last[0].stage
    importances = _importances(study)
    if importances:
        made.append((f"Importance of parameters, stage {stage}", _importance_figure(study, importances), IMPORTANCE))
    names = (list(importances) or sorted(study.trials[0].params))[:PARALLEL_AXES]
    best = sorted(last, key=lambda row: -(row.estimate or 0.0))[:PARALLEL_LINES]
    caption = f"The best {len(best)} candidates over {len(names)} of {len(last[0].params)} parameters"
    caption += ", the most important ones." if importances else "."
    made.append((f"Parallel coordinates, stage {stage}", _parallel(_study(results, best), names), caption))
    return made


def _last_stage(results: Results, scored: Sequence[CandidateRow]) -> list[CandidateRow]:
    """Candidates of the finest stage that scored any, all with the same parameters."""
    for entry in reversed(results.campaign.space.stages):
        rows = [row for row in scored if row.stage == entry.name and row.params]
        if rows:
            return [row for row in rows if set(row.params) == set(rows[0].params)]
    return []


def _study(results: Results, rows: Sequence[CandidateRow]) -> optuna.Study:
    """An in-memory Optuna study of these candidates. Parameters lose the words they all begin with: axes are narrow."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", storage=shared_trials())
    ranges = results.campaign.space.parameters
    bounds = {
        name: _distribution(ranges.get(name.split("/", 1)[0]), [row.params[name] for row in rows])
        for name in rows[0].params
    }
    short = _short_names(list(rows[0].params))
    for row in rows:
        study.add_trial(
            optuna.trial.create_trial(
                params={short[name]: value for name, value in row.params.items()},
                distributions={short[name]: bounds[name] for name in row.params},
                value=row.estimate,
            )
        )
    return study


def _distribution(found: Range | Choice | None, values: Sequence[Value]) -> BaseDistribution:
    """A parameter's bounds; what has none (categories, layers of a sequence) lies between the values it took."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(found, Range):
        return FloatDistribution(found.low, found.high)
    if any(isinstance(value, bool | str) for value in values):
        return CategoricalDistribution(tuple(dict.fromkeys(values)))
    return FloatDistribution(min(map(float, values)), max(map(float, values)))


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """`weight/letters/mlp/1` → `letters mlp 1` where all begin with `weight`; `all` says nothing and goes too."""
    parts = {name: name.split("/") for name in names}
    same = len({part[0] for part in parts.values()}) == 1
    return {name: " ".join(word for word in part[same:] if word != "all") or name for name, part in parts.items()}


def _history(rows: Sequence[CandidateRow]) -> go.Figure:
    """Optuna's history of estimates over candidate numbers, points coloured by stage."""
    import optuna
    import plotly.graph_objects as go

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", storage=shared_trials())
    for row in sorted(rows, key=lambda row: row.number):
        study.add_trial(optuna.trial.create_trial(value=row.estimate))
    figure = optuna.visualization.plot_optimization_history(study, target_name="estimated score")
    points, best = figure.data[0], figure.data[1]
    ordered = sorted(rows, key=lambda row: row.number)
    best.update(x=[row.number for row in ordered], line={"color": MUTED, "width": 1.5}, name="best so far")
    stages = list(dict.fromkeys(row.stage or row.origin for row in ordered))
    coloured = [
        go.Scatter(
            x=[row.number for row in ordered if (row.stage or row.origin) == stage],
            y=[row.estimate for row in ordered if (row.stage or row.origin) == stage],
            text=[row.label for row in ordered if (row.stage or row.origin) == stage],
            mode=points.mode,
            name=stage,
            marker={"color": COLOURS[place % len(COLOURS)], "size": 7, "opacity": 0.8},
            hovertemplate="%{text}: %{y:.3f}<extra></extra>",
        )
        for place, stage in enumerate(stages)
    ]
    shown = go.Figure([*coloured, best], figure.layout)
    shown.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    shown.update_xaxes(title="candidate", gridcolor=GRID)
    shown.update_yaxes(gridcolor=GRID)
    return styled(shown, height=380)


def _importances(study: optuna.Study) -> Mapping[str, float]:
    """Parameter → importance, the largest first; {} where the estimates do not differ."""
    import optuna

    if len({trial.value for trial in study.trials}) < 2:
        return {}
    found: dict[str, float] = optuna.importance.get_param_importances(study)
    return found


def _importance_figure(study: optuna.Study, importances: Mapping[str, float]) -> go.Figure:
    import optuna

    figure = optuna.visualization.plot_param_importances(study, params=list(importances)[:20])
    figure.update_traces(marker_color=BLUE)
    figure.update_layout(showlegend=False)
    widest = max(importances.values())
    figure.update_xaxes(title=None, gridcolor=GRID, range=[0, 1.15 * widest])
    figure.update_yaxes(title=None)
    return styled(figure, height=90 + 22 * min(20, len(importances)), left=170)


def _parallel(study: optuna.Study, names: Sequence[str]) -> go.Figure:
    import optuna

    figure = optuna.visualization.plot_parallel_coordinate(study, params=list(names), target_name="score")
    figure.update_layout(meta=120 + PARALLEL_PX * (len(names) + 1))
    return styled(figure, height=460)
