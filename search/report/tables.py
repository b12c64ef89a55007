"""The tables of the report: comparisons, skills, cost, leaders, ledger, provenance. Pure; all cells are text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from search.ports import SPLITS
from search.results import Results
from search.visits import day_of

Z95 = 1.959964  # two-sided 95 % of a normal distribution
Interval = tuple[float, float]


@dataclass(frozen=True)
class Table:
    """A table of the report, all cells text; columns after the first are numbers and stand on the right, but for those
    that are `prose`: they stand on the left, and may be wrapped."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    prose: tuple[str, ...] = ()


def tables(results: Results) -> list[Table]:
    """All tables of the report, in order; those without rows are left out."""
    from search.report.candidates import top_table  # these are made of this module's cells
    from search.report.goals import goal_tables
    from search.report.losses import loss_tables

    made = [comparison_table(results), *goal_tables(results.verdict), skill_table(results), top_table(results)]
    made += [cost_table(results), *loss_tables(results), ledger_table(results), provenance_table(results)]
    return [table for table in made if table.rows]


def comparison_table(results: Results) -> Table:
    """The winner against every comparator on the holdout, the least sure margin first."""
    columns = (
        "against",
        "beaten",  # a phone shows the first columns
        "score",
        "difference",
        "95 % interval",
        "lower bound",
        "items won : lost",
        "sign-flip p",
    )
    verdict = results.verdict
    if verdict is None or verdict.score is None or verdict.interval is None:
        return Table("Winner against every comparator", columns, ())
    rows = [
        (
            found.label,
            "yes" if found.beaten else "no",
            score_text(found.score),
            signed_text(found.difference),
            f"{signed_text(found.interval[0])} … {signed_text(found.interval[1])}",
            signed_text(found.lower),
            f"{found.wins} : {found.losses}",
            _p_value(found.flip_p),
        )
        for found in sorted(verdict.comparisons, key=lambda found: found.lower)
    ]
    rows += [(label, "no", *("–",) * 6) for label in verdict.unscored]
    note = (
        f"{verdict.label}: {score_text(verdict.score)} ({interval_text(verdict.interval)}) on "
        f"{verdict.holdout_items} holdout items, opened once. Differences are paired over items; bounds from "
        f"{verdict.resamples} bootstrap resamples, stratified by task. To win is to have every one-sided 95 % lower "
        "bound above 0, and at most 5 % of random sign flips as large (sign-flip p)."
    )
    return Table("Winner against every comparator", columns, tuple(rows), note)


def skill_table(results: Results) -> Table:
    """Holdout score per task of everybody who met the holdout, the winner first, then by mean.

    The mean is that of the skills, whatever the objectives are.
    """
    tasks = [task.name for task in results.campaign.tasks]
    scored = skill_scores(results)
    weights = results.campaign.task_weights
    mean = {n: mean_of({task: found[0] for task, found in skills.items()}, weights) for n, skills in scored.items()}
    order = sorted(scored, key=lambda n: (n != results.winner, -mean[n], n))
    rows = []
    for number in order:
        cells = [score_with_interval(*scored[number][task]) if task in scored[number] else "–" for task in tasks]
        rows.append((results.candidate(number).label, *cells, score_text(mean[number])))
    note = "Mean over holdout items and its 95 % interval (of right and wrong: Wilson's)."
    return Table("Skills on the holdout", ("candidate", *tasks, "mean"), tuple(rows), note)


def cost_table(results: Results) -> Table:
    """Item evaluations by split, candidates, time."""
    rows = [(f"{split} items scored", count_text(results.items_spent.get(split, 0))) for split in SPLITS]
    failed = sum(row.failure is not None for row in results.candidates)
    rows += [("candidates", count_text(len(results.candidates))), ("of them failed", count_text(failed))]
    rows += [("wall time", duration_text(results.seconds))]
    return Table("Cost", ("what", "how much"), tuple(rows))


def ledger_table(results: Results) -> Table:
    """Who met the holdout, why and when: candidates of the campaign, then models from outside."""
    rows = [
        (results.candidate(access.candidate).label, access.reason, count_text(access.items), day_of(access.at))
        for access in results.ledger
    ]
    rows += [(v.model, f"evaluated by {v.who}", count_text(v.items), day_of(v.at)) for v in results.visits]
    return Table("Holdout ledger", ("who", "why", "items", "when (UTC)"), tuple(rows))


def provenance_table(results: Results) -> Table:
    """Digests that tie the report to the published files."""
    rows = [("campaign seed", str(results.campaign.seed)), ("base model", results.campaign.base_model)]
    for name, source in zip(results.campaign.source_names, results.campaign.sources, strict=True):
        rows.append((f"source {name}", source.model))
    rows.append(("evaluation key", results.eval_key))
    if results.winner is not None:
        row = results.candidate(results.winner)
        rows += [("recipe hash", row.recipe_hash), ("weights digest", row.weights_digest or "–")]
    return Table("Provenance", ("what", "value"), tuple(rows), prose=("value",))


def skill_scores(results: Results) -> dict[int, dict[str, tuple[float, Interval]]]:
    """Candidate → task → (mean, its 95 % interval) on the holdout."""
    return {
        candidate: {task: mean_and_interval(values) for task, values in rows.by_task().items()}
        for candidate, rows in results.item_scores.on("holdout").by_candidate().items()
    }


def mean_and_interval(values: ArrayLike) -> tuple[float, Interval]:
    """The mean and its 95 % interval: Wilson's for right and wrong, which lies between 0 and 1 and is wide for few
    items even where all are right (Wilson 1927; Brown, Cai and DasGupta 2001); the normal one for graded scores, a
    point for a single value."""
    values_N = np.asarray(values, np.float64)
    count, mean = len(values_N), math.fsum(values_N.tolist()) / len(values_N)
    if ((values_N == 0) | (values_N == 1)).all():
        z2 = Z95**2 / count
        middle = (mean + z2 / 2) / (1 + z2)
        half = Z95 * math.sqrt((mean * (1 - mean) + z2 / 4) / count) / (1 + z2)
        return mean, (max(0.0, middle - half), min(1.0, middle + half))
    variance = math.fsum(((values_N - mean) ** 2).tolist()) / max(1, count - 1)
    half = Z95 * math.sqrt(variance / count)
    return mean, (mean - half, mean + half)


def mean_of(means: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The mean of tasks' means, by the campaign's weights of those tasks."""
    return math.fsum(weights[task] * mean for task, mean in means.items()) / math.fsum(weights[task] for task in means)


def interval_of_mean(tasks: Mapping[str, tuple[float, Interval]], weights: Mapping[str, float]) -> Interval:
    """The 95 % interval of `mean_of` tasks, of their means and intervals: what lies below each mean adds up in squares,
    and so does what lies above, as Wilson's are not symmetric (Zou and Donner 2008; of two, Newcombe 1998)."""
    mean = mean_of({task: found for task, (found, _) in tasks.items()}, weights)
    total = math.fsum(weights[task] for task in tasks)
    below = math.hypot(*(weights[task] * (found - low) for task, (found, (low, _)) in tasks.items()))
    above = math.hypot(*(weights[task] * (high - found) for task, (found, (_, high)) in tasks.items()))
    return mean - below / total, mean + above / total


def score_text(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def count_text(count: int) -> str:
    """12 345 with narrow spaces that do not break."""
    return f"{count:,}".replace(",", "\u202f")


def interval_text(interval: Interval) -> str:
    return f"{score_text(interval[0])} … {score_text(interval[1])}"


def signed_text(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def score_with_interval(mean: float, interval: Interval) -> str:
    """In little room: tables have a column of them for every task.

    >>> score_with_interval(0.915, (0.884, 0.939)), score_with_interval(-2.5, (-3, -2))
    ('0.915 .884–.939', '-2.500 (-3.000 … -2.000)')
    """
    if not 0 <= interval[0] <= interval[1] <= 1:
        return f"{mean:.3f} ({interval_text(interval)})"
    return f"{mean:.3f} " + "–".join(f"{end:.3f}".removeprefix("0") for end in interval)


def _p_value(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def duration_text(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"
