"""Scores and what may be concluded from them: means over tasks, estimates across windows, and the verdict. Pure.

Legend: I items, C candidates (winner or comparators), B bootstrap resamples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search.ports import LEVEL, Comparison, Verdict

RESAMPLES = 10_000
AT_ONCE = 500  # resamples that are held: half a kB per item of their signs, 8 kB of how often it is drawn
FEW = 8  # different differences, as scores of right and wrong have
ROUNDING = 1e-9  # sums in another order are equal
Floats = NDArray[np.float64]


def weighted_mean(scores: Mapping[str, float], *, task_of: Mapping[str, str], weights: Mapping[str, float]) -> float:
    """Σ_t w_t · mean of task t's items, over the tasks that have items here (their weights rescaled to sum to 1)."""
    by_task: dict[str, list[float]] = defaultdict(list)
    for item, score in scores.items():
        by_task[task_of[item]].append(score)
    total = sum(weights[task] for task in by_task)
    return sum(weights[task] * sum(values) / len(values) for task, values in by_task.items()) / total


# --------------------------------------------------------------------------------------------------------- estimates


@dataclass(frozen=True)
class WindowScore:
    """A candidate's mean score on its cohort's window of `items` items, or, `stopped`, on the first part of it."""

    number: int
    stage: int
    cohort: int
    items: int
    score: float
    stopped: bool = False


def window_numbers(windows: Sequence[tuple[int, int]]) -> list[int]:
    """Cohort → the first one with the same window (start, size): what saw the same items is compared as one cohort."""
    first: dict[tuple[int, int], int] = {}
    return [first.setdefault(window, number) for number, window in enumerate(windows)]


NEIGHBOURS = 2  # cohorts on each side that steady a cohort's level


def estimates(scores: Sequence[WindowScore]) -> dict[int, float]:
    """Candidate → shrunk estimate of its true mean, comparable between candidates of different windows.

    estimate = level of the cohort + shrinkage · (score − cohort mean). Within a cohort all candidates saw the same
    items, so the second term is paired; its shrinkage τ²/(τ² + σ²/n) comes from the spread of all cohorts of the stage
    against the binomial noise σ² = p(1−p). The level averages the means of up to five neighbouring cohorts of the
    stage, each on its own items: one small window may be easy by luck, five in a row hardly. Candidates that were
    stopped early have a share in means and spread, without which a cohort of survivors would look easy; they get no
    estimate of their own.

    Scores outside 0 to 1 (log-likelihoods, grades) are corrected for their windows and next to not shrunk: how noisy
    they are, scores of items would tell; means of windows do not.
    """
    cohorts: dict[tuple[int, int], list[WindowScore]] = defaultdict(list)
    for entry in scores:
        cohorts[max(entry.stage, 0), entry.cohort].append(entry)
    found: dict[int, float] = {}
    for stage in sorted({stage for stage, _ in cohorts}):
        members = [cohorts[key] for key in sorted(cohorts) if key[0] == stage]
        found |= _stage_estimates(members)
    return found


def _stage_estimates(cohorts: list[list[WindowScore]]) -> dict[int, float]:
    means = np.array([np.mean([entry.score for entry in cohort]) for cohort in cohorts])
    items = np.array([cohort[0].items for cohort in cohorts], dtype=float)
    noise = np.maximum(means * (1 - means), 0.01) / items
    spread = _spread(cohorts, means, noise)
    found: dict[int, float] = {}
    for index, cohort in enumerate(cohorts):
        near = slice(max(0, index - NEIGHBOURS), index + NEIGHBOURS + 1)
        level = float(np.average(means[near], weights=items[near]))
        shrinkage = spread / (spread + noise[index])
        for entry in (entry for entry in cohort if not entry.stopped):
            found[entry.number] = level + float(shrinkage) * (entry.score - float(means[index]))
    return found


def _spread(cohorts: list[list[WindowScore]], means: Floats, noise: Floats) -> float:
    """τ²: variance of true scores within cohorts, by moments; at least a tenth of the smallest noise."""
    free = sum(len(cohort) - 1 for cohort in cohorts)
    if free == 0:
        return float(noise.min())
    squares = sum((e.score - mean) ** 2 for cohort, mean in zip(cohorts, means, strict=True) for e in cohort)
    expected = sum((len(cohort) - 1) * n for cohort, n in zip(cohorts, noise, strict=True))
    return max((float(squares) - float(expected)) / free, 0.1 * float(noise.min()))


# ----------------------------------------------------------------------------------------------------------- verdict


@dataclass(frozen=True)
class Entrant:
    """A candidate with its holdout scores, item → score."""

    number: int
    label: str
    recipe_hash: str
    scores: Mapping[str, float]


def judge(
    winner: Entrant,
    comparators: Sequence[Entrant],
    *,
    task_of: Mapping[str, str],
    weights: Mapping[str, float],
    seed: int,
) -> Verdict:
    """Compare the winner with every comparator on the same holdout items.

    The winner wins if the one-sided 95 % lower bound of every paired difference is above 0, and so few of its sign
    flips are as large that chance is no explanation. That is an intersection-union test: the claim is "better than all
    of them", so each test has the full level and no correction for several comparisons is due (Berger 1982). Bounds are
    percentiles of a paired bootstrap over items, stratified by task. The bootstrap believes what few items say (3 : 0
    is significant to it, and a single item has no variance at all), the flips do not; of many items both say the same.
    A comparator equal to the winner has difference and bound 0: not beaten.
    """
    items = sorted(winner.scores, key=lambda item: (task_of[item], item))
    tasks = [task_of[item] for item in items]
    scores_CI = np.array([[entrant.scores[item] for item in items] for entrant in (winner, *comparators)])
    own, *others = _tested(scores_CI, tasks=tasks, weights=weights, seed=seed)
    wins_C = (scores_CI[0] > scores_CI[1:]).sum(axis=1)
    losses_C = (scores_CI[0] < scores_CI[1:]).sum(axis=1)
    comparisons = tuple(
        _comparison(entrant, found, own=own, wins=int(wins), losses=int(losses))
        for entrant, found, wins, losses in zip(comparators, others, wins_C, losses_C, strict=True)
    )
    return Verdict(
        winner=winner.number,
        label=winner.label,
        recipe_hash=winner.recipe_hash,
        score=own.observed,
        interval=own.interval,
        comparisons=comparisons,
        holdout_items=len(items),
        resamples=RESAMPLES,
        seed=seed,
    )


class _Tested(NamedTuple):
    """The winner's own mean, or its difference to a comparator, with what bootstrap and sign flips say of it."""

    observed: float
    lower: float
    interval: tuple[float, float]
    flip_p: float


def _comparison(entrant: Entrant, found: _Tested, *, own: _Tested, wins: int, losses: int) -> Comparison:
    return Comparison(
        comparator=entrant.number,
        label=entrant.label,
        score=own.observed - found.observed,
        difference=found.observed,
        lower=found.lower,
        interval=found.interval,
        flip_p=found.flip_p,
        wins=wins,
        losses=losses,
    )


def _tested(scores_CI: Floats, *, tasks: Sequence[str], weights: Mapping[str, float], seed: int) -> list[_Tested]:
    """Of the first row, and of its difference to each of the others."""
    differences_CI = scores_CI[0] - scores_CI
    rows_CI = np.concatenate([scores_CI[:1], differences_CI[1:]])
    observed_C, drawn_CB = bootstraps(rows_CI, tasks=tasks, weights=weights, seed=seed)
    flips_C = flip_tests(differences_CI, tasks=tasks, weights=weights, seed=seed)
    low_C, lower_C, high_C = np.percentile(drawn_CB, [50 * LEVEL, 100 * LEVEL, 100 - 50 * LEVEL], axis=1)
    columns = zip(observed_C, lower_C, low_C, high_C, flips_C, strict=True)
    return [
        _Tested(float(observed), float(lower), (float(low), float(high)), float(flip))
        for observed, lower, low, high, flip in columns
    ]


def bootstraps(
    rows_CI: Floats, *, tasks: Sequence[str], weights: Mapping[str, float], seed: int
) -> tuple[Floats, Floats]:
    """`bootstrap` of every row by itself where its values are few; equal rows get equal numbers.

    A row of right and wrong has two values and a difference of such three, eight of them together hundreds of patterns;
    of graded scores every item is a pattern anyway.
    """
    if not _few_values(rows_CI):
        return bootstrap(rows_CI, tasks=tasks, weights=weights, seed=seed)
    found = [bootstrap(row_I[None], tasks=tasks, weights=weights, seed=seed) for row_I in rows_CI]
    return np.concatenate([observed for observed, _ in found]), np.concatenate([drawn for _, drawn in found])


def _few_values(rows_CI: Floats) -> bool:
    """Whether every row has but a few values: together they may have thousands of patterns."""
    return all(len(np.unique(row_I)) <= FEW for row_I in rows_CI)


def bootstrap(
    rows_CI: Floats, *, tasks: Sequence[str], weights: Mapping[str, float], seed: int
) -> tuple[Floats, Floats]:
    """Weighted mean over tasks of every row, and its bootstrap distribution: ([C], [C, B]).

    Items are drawn with replacement within their task (`tasks` names the task of each of the I items); every row sees
    the same draws, so a row of differences gives a paired bootstrap.
    """
    observed_C = np.zeros(len(rows_CI))
    drawn_CB = np.zeros((len(rows_CI), RESAMPLES))
    total = sum(weights[task] for task in set(tasks))
    for index, task in enumerate(sorted(set(tasks))):
        columns = np.array([name == task for name in tasks])
        patterns_CU, sizes_U = np.unique(rows_CI[:, columns], axis=1, return_counts=True)
        share = weights[task] / total / columns.sum()
        observed_C += share * (patterns_CU @ sizes_U)
        # items with the same scores in every row are exchangeable: drawing how often each *pattern* occurs is the same
        generator = np.random.default_rng([seed, index])
        for start in range(0, RESAMPLES, AT_ONCE):  # of graded scores every item is a pattern
            counts_BU = generator.multinomial(columns.sum(), sizes_U / sizes_U.sum(), size=AT_ONCE)
            drawn_CB[:, start : start + AT_ONCE] += share * (patterns_CU @ counts_BU.T)
    return observed_C, drawn_CB


def flip_tests(differences_CI: Floats, *, tasks: Sequence[str], weights: Mapping[str, float], seed: int) -> Floats:
    """One-sided p-values [C] of the paired sign-flip test of every row's weighted mean over tasks (Fisher 1935): the
    share of random signs of its items that give as large a mean.

    Where nobody is better each difference could as well have had the other sign, so this holds its level for however
    few items. For scores of 0 and 1 of one task it is the exact sign test.
    """
    if len(differences_CI) > 1 and _few_values(differences_CI):  # as in `bootstraps`
        each = [flip_tests(row_I[None], tasks=tasks, weights=weights, seed=seed) for row_I in differences_CI]
        return np.concatenate(each)
    drawn_CB = np.zeros((len(differences_CI), RESAMPLES))
    observed_C = np.zeros(len(differences_CI))
    total = sum(weights[task] for task in set(tasks))
    for index, task in enumerate(sorted(set(tasks))):
        columns = np.array([name == task for name in tasks])
        patterns_CU, sizes_U = np.unique(differences_CI[:, columns], axis=1, return_counts=True)
        share = weights[task] / total / columns.sum()
        generator = np.random.default_rng([seed, index, 1])
        for start in range(0, RESAMPLES, AT_ONCE):
            kept_UB = _kept_signs(sizes_U, generator)
            drawn_CB[:, start : start + AT_ONCE] += share * (patterns_CU @ (2 * kept_UB - sizes_U[:, None]))
        observed_C += share * (patterns_CU @ sizes_U)
    as_large_C = (drawn_CB >= observed_C[:, None] - ROUNDING).sum(axis=1)
    p_C: Floats = (1 + as_large_C) / (1 + RESAMPLES)
    return p_C


def _kept_signs(sizes_U: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """[U, AT_ONCE] of so many items each, how many keep their sign: of equal differences nothing else matters."""
    if len(sizes_U) <= FEW:
        return generator.binomial(sizes_U[:, None], 0.5, size=(len(sizes_U), AT_ONCE))
    coins = int(sizes_U.sum())  # eight in a byte: a binomial takes longer than ten of them
    bytes_B = generator.integers(0, 256, size=(AT_ONCE, -(-coins // 8)), dtype=np.uint8)
    firsts_U = np.cumsum(sizes_U) - sizes_U
    kept_BU = np.add.reduceat(np.unpackbits(bytes_B, axis=1, count=coins), firsts_U, axis=1, dtype=np.int64)
    return kept_BU.T


def task_means(
    rows_RI: Floats, *, tasks: Sequence[str], seed: int, resamples: int
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Task → means of every row over its items ([R]), and their joint bootstrap distribution ([R, B]).

    As in `bootstrap` all rows see the same draws, so differences, minima and dominance of rows can be read off them.
    """
    observed, drawn = {}, {}
    for index, task in enumerate(sorted(set(tasks))):
        columns = np.flatnonzero([name == task for name in tasks])
        share = np.full(len(columns), 1.0 / len(columns))
        generator, mine_RI = np.random.default_rng([seed, index]), rows_RI[:, columns]
        observed[task], drawn[task] = mine_RI.mean(axis=1), np.empty((len(rows_RI), resamples))
        for start in range(0, resamples, AT_ONCE):
            counts_BI = generator.multinomial(len(columns), share, size=min(AT_ONCE, resamples - start))
            drawn[task][:, start : start + AT_ONCE] = mine_RI @ counts_BI.T / len(columns)
    return observed, drawn


def sign_test(wins: int, losses: int) -> float:
    """One-sided p-value of the exact paired sign test: P(≥ wins of wins + losses fair coins); ties are left out."""
    from scipy.stats import binomtest

    return 1.0 if wins + losses == 0 else float(binomtest(wins, wins + losses, alternative="greater").pvalue)
