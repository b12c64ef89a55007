"""When a candidate is worth no further items: looks at a growing part of its window, and two reasons to stop. Pure.

A window large enough is scored in *rungs*, its first eighth, its quarter, its half, the rest. After every rung but the
last a candidate meets the *incumbent*, the best candidate that was scored on all of the same window. It stops where

    it is worse       on the items both were scored on: exact sign test for 0/1 scores, Wilcoxon's signed ranks for
                      graded ones, one-sided, p < LEVEL at each look, and its mean over tasks is lower, too
    it is too late    even with every item to come right it would not reach the better half of its cohort (0/1 scores
                      only: others have no best possible value)

With objectives a lower score may be worth its price, so there a candidate stops where it is

    dominated         by one and the same rival in every objective: by these tests, at this level, in each of them (of
                      the worst task: in every task), and without being smaller where its size is an objective

Why the exact test at .02, and few looks: reference measurements (400 items, incumbent .60, looks every 40 items) stop
a better candidate (.62) in 2 % and a hopeless one (.40) at 14 % of its items; Wilcoxon at p < .1 after every 4 items
stops 9 % of the better ones. tests/search/judging/test_stopping.py measures the present looks. A stopped candidate
keeps the mean of what it was scored on and ranks behind those that saw everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from search.judging.objectives import Facts, Goals, ObjectiveEntry
from search.judging.scores import sign_test, weighted_mean

LEVEL = 0.02
LOOKS = (0.125, 0.25, 0.5)
FROM_ITEMS = 60
"""Smaller windows have no looks: of 15 items six must differ, all one way, before a sign test says anything at .02, and
a stopped candidate would save fewer items than the further work unit costs."""
LEAST = 6
"""Discordant items below which no sign test is significant: 2^-6 < .02 < 2^-5."""

Reason = Literal["worse", "too late", "dominated"]
Scores = Mapping[str, float]


@dataclass(frozen=True)
class Looks:
    """At which shares of a window a candidate may be stopped; `from_items`: windows below have none."""

    shares: tuple[float, ...] = LOOKS
    from_items: int = FROM_ITEMS

    def rungs(self, size: int, *, parts: int = 1) -> tuple[int, ...]:
        """How many items of a window of `size` are scored after each rung, the last one being all of them.

        A rung with too few items for a test of each of their `parts` would be one more work unit for nothing.

        >>> Looks().rungs(150), Looks().rungs(75), Looks().rungs(30)
        ((19, 38, 75, 150), (10, 19, 38, 75), (30,))
        """
        if size < self.from_items:
            return (size,)
        marks = sorted({-int(-share * size // 1) for share in self.shares})
        return (*(mark for mark in marks if LEAST * parts <= mark < size), size)


NO_LOOKS = Looks(shares=())


@dataclass(frozen=True)
class Measure:
    """How items become a mean: the task of each, and the weight of each task."""

    task_of: Mapping[str, str]
    weights: Mapping[str, float]

    def mean(self, scores: Scores) -> float:
        """The weighted mean over tasks."""
        return weighted_mean(scores, task_of=self.task_of, weights=self.weights)


@dataclass(frozen=True)
class Field:
    """What a candidate is up against: the incumbent's scores (None: nobody was scored on all of the window yet), and
    the means of those of its cohort that were, out of `capacity` places."""

    incumbent: Scores | None
    complete: tuple[float, ...]
    capacity: int


def look(scores: Scores, window: Sequence[str], field: Field, measure: Measure) -> Reason | None:
    """Why to stop a candidate that has these scores on the first part of its window; None: go on."""
    if field.incumbent is None:
        return None
    theirs = {item: field.incumbent[item] for item in scores}
    own = measure.mean(scores)
    if own < measure.mean(theirs) and loses(scores, theirs):
        return "worse"
    bar = _bar(field)
    if bar is not None and _binary(scores) and _binary(field.incumbent):
        best = dict.fromkeys(window, 1.0) | dict(scores)
        if measure.mean(best) < bar:
            return "too late"
    return None


def dominated(own: Facts, rivals: Sequence[Facts], goals: Goals) -> Reason | None:
    """Whether one of the rivals is better than a candidate in all objectives, beyond noise; all on the same items."""
    noisy = [entry for entry in goals.objectives if entry.of != "parameters"]
    exact = [entry for entry in goals.objectives if entry.of == "parameters"]
    for theirs in rivals if noisy else ():
        smaller = any(entry.sign * ((own.parameters or 0.0) - (theirs.parameters or 0.0)) > 0 for entry in exact)
        if not smaller and all(_loses_in(entry, own, theirs, goals) for entry in noisy):
            return "dominated"
    return None


def _loses_in(entry: ObjectiveEntry, own: Facts, theirs: Facts, goals: Goals) -> bool:
    """Whether a candidate is significantly worse in one objective that items decide."""
    kind, _, name = entry.of.partition(":")
    if kind == "worst":  # it is lower for sure where every task is
        return all(_loses_in(ObjectiveEntry(of=f"task:{task}"), own, theirs, goals) for task in goals.weights)
    mine, other = (facts.measures.get(name, {}) if kind == "measure" else facts.scores for facts in (own, theirs))
    items = [item for item in mine if item in other and (kind != "task" or goals.task_of[item] == name)]
    if entry.sign * (goals.value(entry.of, own)[0] - goals.value(entry.of, theirs)[0]) >= 0:
        return False
    return loses({i: entry.sign * mine[i] for i in items}, {i: entry.sign * other[i] for i in items})


def loses(scores: Scores, theirs: Scores) -> bool:
    """Whether paired scores are significantly lower than `theirs` on the same items."""
    differences = tuple(scores[item] - theirs[item] for item in scores)
    if _binary(scores) and _binary(theirs):
        losses = sum(difference < 0 for difference in differences)
        return _sign_test(losses, sum(difference > 0 for difference in differences)) < LEVEL
    return _signed_ranks(differences) < LEVEL


def _bar(field: Field) -> float | None:
    """The mean that half of the cohort's places reached already: below it CMA-ES gives no positive weight."""
    needed = max(1, field.capacity // 2)
    return sorted(field.complete, reverse=True)[needed - 1] if len(field.complete) >= needed else None


def _binary(scores: Scores) -> bool:
    return all(score in (0.0, 1.0) for score in scores.values())


_sign_test = lru_cache(4096)(sign_test)


def _signed_ranks(differences: Sequence[float]) -> float:
    """One-sided p-value of Wilcoxon's signed-rank test that the differences lie below 0; ties count half each way."""
    from scipy.stats import wilcoxon

    if sum(difference != 0 for difference in differences) < LEAST:
        return 1.0
    return float(wilcoxon(differences, alternative="less", zero_method="zsplit").pvalue)
