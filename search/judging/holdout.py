"""What the holdout says of several objectives and of constraints: the front with its uncertainty, the bounds. Pure.

One joint bootstrap over items, stratified by task, gives the intervals of every value, the chance that a model really
belongs to the front (as the selection saw it, so a member that the holdout finds dominated stays, with a small chance),
and what is left to every bound. Legend: M models, K objectives, I items, B resamples, R rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.judging.objectives import Bound, Facts, Goals, Reference
from search.judging.scores import ROUNDING, task_means
from search.ports import LEVEL, BoundKept, FrontMember

RESAMPLES = 2000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """A candidate with what the holdout knows of it; `role` says for which bounds it is a reference."""

    number: int
    label: str
    recipe_hash: str
    facts: Facts
    role: Reference = "none"


@dataclass(frozen=True)
class Draws:
    """Means by task of every (model, measure), observed and drawn; "score" is a measure like the others."""

    goals: Goals
    models: Sequence[Model]
    rows: Mapping[tuple[int, str], int]
    observed: Mapping[str, Floats]
    drawn: Mapping[str, Floats]

    def value(self, index: int, of: str) -> tuple[float, Floats]:
        """The value of model `index` (in `models`), and its [B] draws."""
        if of == "parameters":
            size = self.models[index].facts.parameters
            return (np.nan if size is None else size), np.full(RESAMPLES, np.nan if size is None else size)
        row = self.rows[index, of.removeprefix("measure:") if of.startswith("measure:") else "score"]
        means = {
            task: (float(found[row]), self.drawn[task][row])
            for task, found in self.observed.items()
            if not np.isnan(found[row])  # tasks without the measure have no share in it: see Goals.value
        }
        if of.startswith("task:"):
            return means[of.removeprefix("task:")]
        if not means:
            return np.nan, np.full(RESAMPLES, np.nan)
        if of == "worst":
            return min(mean for mean, _ in means.values()), np.min([draws for _, draws in means.values()], axis=0)
        total = sum(self.goals.weights[task] for task in means)
        shares = [(self.goals.weights[task] / total, *means[task]) for task in means]
        return sum(share * mean for share, mean, _ in shares), np.sum([s * draws for s, _, draws in shares], axis=0)


def make_draws(goals: Goals, models: Sequence[Model], *, seed: int) -> Draws:
    """The joint bootstrap of everything that goals are about. All models have scores of the same items."""
    measures = ["score", *sorted(goals.measures)]
    items = sorted(models[0].facts.scores, key=lambda item: (goals.task_of[item], item))
    tasks = [goals.task_of[item] for item in items]
    rows: dict[tuple[int, str], int] = {}
    matrix: list[Floats] = []
    for index, model in enumerate(models):
        for measure in measures:
            rows[index, measure] = len(matrix)
            known = model.facts.scores if measure == "score" else model.facts.measures.get(measure, {})
            matrix.append(_filled([known.get(item, np.nan) for item in items], tasks))
    observed, drawn = task_means(np.array(matrix), tasks=tasks, seed=seed, resamples=RESAMPLES)
    return Draws(goals, models, rows, observed, drawn)


def judge_front(draws: Draws, members: Sequence[int]) -> tuple[FrontMember, ...]:
    """The models of these indices as a front."""
    goals = draws.goals
    found = [[draws.value(index, entry.of) for entry in goals.objectives] for index in members]
    signs_K = np.array([entry.sign for entry in goals.objectives])
    drawn_MKB = np.array([[drawn for _, drawn in row] for row in found])
    chances_M = _chances(drawn_MKB * signs_K[:, None])
    return tuple(
        FrontMember(
            number=draws.models[index].number,
            label=draws.models[index].label,
            recipe_hash=draws.models[index].recipe_hash,
            values=tuple(float(value) for value, _ in row),
            intervals=tuple(_interval(drawn) for _, drawn in row),
            chance=float(chance),
            broken=tuple(bound.title for bound in judge_bounds(draws, index) if not bound.kept),
        )
        for index, row, chance in zip(members, found, chances_M, strict=True)
    )


def judge_bounds(draws: Draws, index: int) -> tuple[BoundKept, ...]:
    """What is left to every bound of the model of this index."""
    return tuple(_kept(draws, bound, index) for bound in draws.goals.bounds)


def _kept(draws: Draws, bound: Bound, winner: int) -> BoundKept:
    value, drawn = draws.value(winner, bound.of)
    label, level, levels = "", 0.0, np.zeros(RESAMPLES)
    candidates = [index for index, model in enumerate(draws.models) if model.role == bound.relative_to != "none"]
    known = [index for index in candidates if not np.isnan(draws.value(index, bound.of)[0])]
    if np.isnan(value) or (candidates and not known):  # a measure that no holdout item of theirs has
        return BoundKept(bound.title, None if np.isnan(value) else float(value), "", None, None)
    if known:
        best = max(known, key=lambda index: bound.sign * draws.value(index, bound.of)[0])
        label, (level, levels) = draws.models[best].label, draws.value(best, bound.of)
    margins_B = bound.sign * (drawn - levels - bound.offset)
    margin = float(bound.sign * (value - level - bound.offset))
    at_the_bound = abs(margin) <= ROUNDING * max(1.0, abs(value))  # .78 - .80 + .02 is below 0 in floating point
    return BoundKept(
        title=bound.title,
        value=float(value),
        reference=label,
        margin=0.0 if at_the_bound else margin,
        interval=_interval(margins_B),
    )


def _chances(oriented_MKB: Floats) -> Floats:
    """[M] the share of draws in which nobody dominates each model."""
    count, _, resamples = oriented_MKB.shape
    dominated_MB = np.zeros((count, resamples), dtype=bool)
    for index in range(count):
        not_worse_MB = (oriented_MKB >= oriented_MKB[index]).all(axis=1)
        better_MB = (oriented_MKB > oriented_MKB[index]).any(axis=1)
        dominated_MB[index] = (not_worse_MB & better_MB).any(axis=0)
    chances: Floats = 1.0 - dominated_MB.mean(axis=1)
    return chances


def _interval(drawn_B: Floats) -> tuple[float, float]:
    low, high = np.percentile(drawn_B, [50 * LEVEL, 100 - 50 * LEVEL])
    return float(low), float(high)


def _filled(values: Sequence[float], tasks: Sequence[str]) -> Floats:
    """A measure of some items only: the others get the mean of their task's, which says nothing about them."""
    row_I, names_I = np.array(values, dtype=float), np.array(tasks)
    for task in set(tasks):
        missing = np.isnan(row_I) & (names_I == task)
        known = row_I[(names_I == task) & ~np.isnan(row_I)]
        row_I[missing] = known.mean() if len(known) else np.nan
    return row_I
