"""The report of a campaign: verdict first, then the proof. One self-contained HTML page, plain text, or plain data.

    report_data(results)    → JSON-able dict (`mergefleet report --json`)
    render_html(results)    → one page; plotly.js inside, nothing fetched from anywhere
    render_text(results)    → for a terminal

All three read the same tables, made here from a `Results`. Scores are weighted means over tasks, 0 to 1 for accuracies.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any, Literal

import yaml

from search import collector
from search.ports import SPLITS, Comparison, Verdict
from search.report.candidates import top, top_rows
from search.report.losses import failures, quarantined, savings
from search.report.tables import (
    count_text,
    duration_text,
    interval_text,
    score_text,
    signed_text,
    skill_scores,
    tables,
)
from search.report.text import aligned, history_line
from search.report.weights import HeatMap, heat_maps
from search.results import CandidateRow, Results
from search.whole_file import whole_file

Mood = Literal["won", "open", "unproven"]


def report_data(results: Results) -> dict[str, Any]:
    """Everything the report says, as plain data."""
    winner = None if results.winner is None else results.candidate(results.winner)
    verdict = results.verdict
    return {
        "campaign": results.campaign.name,
        "phase": results.phase,
        "evaluation_key": results.eval_key,
        "sentence": headline(results),
        "significant": None if verdict is None else verdict.significant,
        "verdict": None if verdict is None else asdict(verdict),
        "winner": None if winner is None else _candidate_data(winner),
        "skills": {
            results.candidate(number).label: {task: mean for task, (mean, _) in by_task.items()}
            for number, by_task in skill_scores(results).items()
        },
        "weights": [_heat_data(heat) for heat in heat_maps(results)],
        "cost": {
            "items": {split: results.items_spent.get(split, 0) for split in SPLITS},
            "candidates": len(results.candidates),
            "failed": sum(row.failure is not None for row in results.candidates),
            "seconds": results.seconds,
        },
        "top": [asdict(entry) for entry in top(results)],
        "saved": [asdict(entry) for entry in savings(results)],
        "stopped_early": [row.label for row in results.candidates if row.stopped_after is not None],
        "quarantined": {row.label: row.failure for row in quarantined(results)},
        "failures": {cause: [row.label for row in lost] for cause, lost in failures(results)},
        "holdout_accesses": [asdict(access) for access in results.ledger],
        "holdout_visits": [asdict(visit) for visit in results.visits],
    }


def _heat_data(heat: HeatMap) -> dict[str, Any]:
    """JSON has no NaN: a value that the recipe does not give is null."""
    values = [[value if math.isfinite(value) else None for value in row] for row in heat.values]
    return {**asdict(heat), "values": values}


def _candidate_data(row: CandidateRow) -> dict[str, Any]:
    return {**asdict(row), "params": dict(row.params), "recipe": dict(row.recipe)}


def headline(results: Results) -> str:
    """The verdict in one sentence, or how far the campaign has come."""
    if results.verdict is not None:
        return _capitalised(results.verdict.sentence)
    if results.winner is not None:
        return f"No verdict yet: {results.candidate(results.winner).label} was chosen, the holdout is not judged"
    return f"No verdict yet: the campaign is in its {results.phase} phase"


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def mood(verdict: Verdict | None) -> Mood:
    """Won, not shown to have won, or still open."""
    if verdict is None:
        return "open"
    return "won" if verdict.significant else "unproven"


def winner_recipe(results: Results) -> str:
    """The winner's recipe as YAML that `mergefleet merge` takes, or "" before there is one."""
    if results.winner is None:
        return ""
    return recipe_yaml(results.candidate(results.winner).recipe)


def recipe_yaml(recipe: Mapping[str, Any]) -> str:
    """A recipe as YAML that `mergefleet merge` takes."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(_plain(recipe), Dumper=dumper, sort_keys=False, default_flow_style=None, width=110)
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def render_text(results: Results, *, width: int = 80) -> str:
    """The report for a terminal: the verdict, the history, then every table, columns lined up."""
    history = history_line(results)
    lines = [headline(results), *([history] if history else []), ""]
    for table in tables(results):
        lines += [table.title, "─" * min(width, max(len(table.title), 40)), *aligned(table, width)]
        lines += [textwrap.fill(table.note, width)] if table.note else []
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def render_html(results: Results) -> str:
    """One self-contained page."""
    from jinja2 import Environment, StrictUndefined

    from search.report.figures import figures
    from search.report.page import PAGE
    from search.report.plots import script

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    numbers = count(1)
    return environment.from_string(PAGE).render(
        name=results.campaign.name,
        headline=headline(results),
        mood=mood(results.verdict),
        tiles=_tiles(results),
        tables={table.title: table for table in tables(results)},
        figures=figures(results, heat_maps(results)),
        plot=lambda figure: figure.html(next(numbers)),
        plotly=script,
        recipe=winner_recipe(results),
        recipes=[(row.label, recipe_yaml(row.recipe)) for row in top_rows(results) if row.recipe],
        notes=() if results.verdict is None else results.verdict.notes,
    )


@collector.paused()
def write_html(results: Results, path: Path) -> None:
    """Write the page whole or not at all."""
    page = render_html(results)
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _tiles(results: Results) -> list[tuple[str, str, str]]:
    """(value, what it is, detail) of the four numbers at the top."""
    spent = sum(results.items_spent.values())
    rate = f"{spent / results.seconds:.0f} items/s" if results.seconds else ""
    made = [
        (count_text(spent), "items scored", f"{len(results.candidates)} candidates"),
        (duration_text(results.seconds), "wall time", rate),
    ]
    verdict = results.verdict
    if verdict is None or verdict.score is None or verdict.interval is None or not verdict.comparisons:
        return made
    least = min(verdict.comparisons, key=lambda found: (found.beaten, found.lower))
    interval = f"95 %: {interval_text(verdict.interval)}"
    gain = f"95 % lower bound {signed_text(least.lower)}"
    return [
        (score_text(verdict.score), f"holdout score of {verdict.label}", interval),
        (signed_text(least.difference), margin_text(least), gain),
        *made,
    ]


def margin_text(least: Comparison) -> str:
    """What the difference to this comparator is, the one that comes nearest to not being beaten."""
    if least.beaten:
        return f"over {least.label}: the least sure of its margins"
    if least.difference > 0:
        return f"over {least.label}: not shown to be better"
    return f"against {least.label}, which is {'ahead' if least.difference < 0 else 'as good'}"
