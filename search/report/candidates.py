"""The report's table of the best candidates: what they are made of, how good they are, what they took. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from search.ports import SPLITS, Split
from search.report.tables import (
    Interval,
    Table,
    count_text,
    duration_text,
    interval_of_mean,
    mean_and_interval,
    mean_of,
    score_text,
    score_with_interval,
)
from search.results import CandidateRow, Results

TITLE = "Top candidates"
TOP = 10
NOTE = (
    "The score is of the last split that a candidate met (its own window of search items, selection, holdout), with "
    "its 95 % interval. The estimate, by which the search ranks, is shrunk and comparable between windows. Items "
    "and time: what was evaluated for it on all splits, and for how long evaluators held its work."
)


@dataclass(frozen=True)
class Top:
    """One of the best candidates: see NOTE. `items` and `seconds` are None where nobody knows what it took."""

    number: int
    label: str
    recipe: str
    estimate: float | None
    split: Split | None
    score: float | None
    interval: Interval | None
    items: int | None
    seconds: float | None


def top_rows(results: Results, count: int = TOP) -> list[CandidateRow]:
    """The best by selection score, then by estimate."""
    scored = [row for row in results.candidates if row.estimate is not None or row.selection_score is not None]
    scored.sort(key=lambda row: (_last_if_none(row.selection_score), _last_if_none(row.estimate), row.number))
    return scored[:count]


def _last_if_none(score: float | None) -> float:
    """Sorts the highest score first; scores may be below 0, as log-likelihoods are."""
    return math.inf if score is None else -score


def top(results: Results) -> list[Top]:
    """What there is to say of each of them."""
    names, taken = short_names(results), _taken(results)
    found = []
    for row in top_rows(results):
        split, score, interval = score_of(results, row)
        items, seconds = taken.get(row.number, (None, None))
        found.append(
            Top(
                number=row.number,
                label=row.label,
                recipe=recipe_text(row.recipe, names),
                estimate=row.estimate,
                split=split,
                score=score,
                interval=interval,
                items=items,
                seconds=seconds,
            )
        )
    return found


def _taken(results: Results) -> dict[int, tuple[int, float]]:
    """Candidate → items that were evaluated for it, and seconds for which evaluators held its work."""
    found: dict[int, tuple[int, float]] = {}
    for effort in results.efforts:
        items, seconds = found.get(effort.candidate, (0, 0.0))
        found[effort.candidate] = items + effort.paid, seconds + effort.seconds
    return found


def top_table(results: Results) -> Table:
    """Candidate, recipe, score with interval, and what it took."""
    rows = [_row(entry) for entry in top(results)]
    columns = ("candidate", "score", "on", "estimate", "items", "time", "recipe")
    return Table(TITLE, columns, tuple(rows), NOTE, prose=("recipe",))


def _row(entry: Top) -> tuple[str, ...]:
    items = "–" if entry.items is None else count_text(entry.items)
    time = "–" if entry.seconds is None else duration_text(entry.seconds)
    scored = score_text(entry.score)
    if entry.score is not None and entry.interval is not None:
        scored = score_with_interval(entry.score, entry.interval)
    return (entry.label, scored, entry.split or "–", score_text(entry.estimate), items, time, entry.recipe)


def score_of(results: Results, row: CandidateRow) -> tuple[Split | None, float | None, Interval | None]:
    """(the last split it was scored on, its score there, the 95 % interval of that), by the campaign's task weights.

    The interval is None where a task has too few items to tell.
    """
    known: dict[Split, float | None] = {"search": row.search_score, "selection": row.selection_score}
    known["holdout"] = row.holdout_score
    split = next((name for name in reversed(SPLITS) if known[name] is not None), None)
    if split is None:
        return None, None, None
    by_task = results.item_scores.of_candidate(row.number).on(split).by_task()
    found = {task: mean_and_interval(values) for task, values in by_task.items()}
    weights, score = results.campaign.task_weights, known[split]
    if results.campaign.objectives and found:  # what is known is what the objectives make of it
        score = mean_of({task: mean for task, (mean, _) in found.items()}, weights)
    enough = found and all(len(values) > 1 for values in by_task.values())
    return split, score, interval_of_mean(found, weights) if enough else None


def short_names(results: Results) -> dict[str, str]:
    """Model as recipes have it → what reports call it."""
    campaign = results.campaign
    names = dict(zip((entry.model for entry in campaign.sources), campaign.source_names, strict=True))
    return {campaign.base_model: "base", **names}


def recipe_text(recipe: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """A recipe in a few words: its method, and of every source its weight, or from where to where that goes.

    >>> models = [{"model": "m/a", "parameters": {"weight": 0.5}}, {"model": "m/b", "parameters": {"weight": [0, 1.0]}}]
    >>> recipe_text({"merge_method": "ties", "models": models}, {"m/a": "a"})
    'ties: a 0.50, b 0.00…1.00'
    """
    if not recipe:
        return "–"
    slices = [part["sources"] for part in recipe.get("slices", ())]
    if slices:
        parts = [f"{_name(s, names)} {_span(s.get('layer_range', ()))}" for s in chain.from_iterable(slices)]
    else:
        parts = [f"{_name(s, names)} {_numbers(s)}".strip() for s in recipe.get("models", ())]
    shared = _numbers(recipe, ("t",))
    return f"{recipe.get('merge_method', '')}: {', '.join(parts)}" + (f"; t {shared}" if shared else "")


def _name(source: Mapping[str, Any], names: Mapping[str, str]) -> str:
    model = str(source.get("model", ""))
    return names.get(model, re.split(r"[/@]", model.rstrip("/"))[-1])


def _span(layers: Sequence[int]) -> str:
    return f"[{layers[0]}, {layers[1]})" if len(layers) == 2 else ""


def _numbers(part: Mapping[str, Any], keys: Sequence[str] = ("weight",)) -> str:
    found = [*chain.from_iterable(_flat(part.get("parameters", {}).get(key)) for key in keys)]
    if not found:
        return ""
    low, high = min(found), max(found)
    return f"{low:.2f}" if low == high else f"{low:.2f}…{high:.2f}"


def _flat(setting: Any) -> list[float]:
    """Every number in a setting: a constant, a gradient, choices by name."""
    if isinstance(setting, bool) or setting is None:
        return []
    if isinstance(setting, int | float):
        return [float(setting)]
    if isinstance(setting, Mapping):
        return _flat(setting.get("value"))
    return [*chain.from_iterable(map(_flat, setting))] if isinstance(setting, list | tuple) else []
