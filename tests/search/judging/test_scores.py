"""Estimates and verdicts against independent formulas, and their error rates against the nominal ones."""

from __future__ import annotations

import itertools
import math
import random
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy import stats

from search.judging import scores
from search.judging.scores import (
    RESAMPLES,
    Entrant,
    WindowScore,
    bootstrap,
    bootstraps,
    estimates,
    flip_tests,
    judge,
    sign_test,
    task_means,
    weighted_mean,
)
from search.judging.verdicts import verdict_from_dict, verdict_to_dict

TASKS = {"a": 0.5, "b": 0.5}


def items(count: int) -> dict[str, str]:
    """item → task, `count` of each task."""
    return {f"{task}{index}": task for task in TASKS for index in range(count)}


def entrant(number: int, rng: np.random.Generator, probabilities: dict[str, float]) -> Entrant:
    right = rng.random(len(probabilities)) < np.array(list(probabilities.values()))
    scores = dict(zip(probabilities, right.astype(float).tolist(), strict=True))
    return Entrant(number, f"candidate {number}", f"h{number}", scores)


def verdict_of(winner: Entrant, *others: Entrant, count: int, seed: int = 0) -> Any:
    return judge(winner, others, task_of=items(count), weights=TASKS, seed=seed)


def test_the_weighted_mean_weighs_tasks_and_not_items() -> None:
    task_of = {"a1": "a", "a2": "a", "a3": "a", "b1": "b"}
    scores = {"a1": 1.0, "a2": 0.0, "a3": 0.5, "b1": 0.0}
    assert weighted_mean(scores, task_of=task_of, weights={"a": 0.75, "b": 0.25}) == pytest.approx(0.375)
    assert weighted_mean({"b1": 0.25}, task_of=task_of, weights={"a": 0.75, "b": 0.25}) == 0.25


def test_a_bootstrap_of_graded_scores_does_not_hold_all_of_its_draws_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "RESAMPLES", 1000)
    graded = np.random.default_rng(0).random((2, 1500))
    given: dict[str, Any] = {"tasks": ["a"] * 1500, "seed": 3}
    found, peaks = [], []
    for at_once in (1000, 50):
        monkeypatch.setattr(scores, "AT_ONCE", at_once)
        tracemalloc.start()
        found.append((bootstrap(graded, weights={"a": 1.0}, **given)[1], task_means(graded, resamples=990, **given)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] / 5
    (whole, means), (parts, others) = found
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
    np.testing.assert_allclose(others[1]["a"], means[1]["a"], rtol=1e-12)


def test_bootstrap_bounds_are_those_of_the_normal_approximation_on_many_items() -> None:
    rng = np.random.default_rng(3)
    count = 1500
    rows = rng.choice([-1.0, 0.0, 1.0], p=[0.2, 0.5, 0.3], size=(1, 2 * count))
    tasks = ["a"] * count + ["b"] * count
    weights = {"a": 0.8, "b": 0.2}
    observed, drawn = bootstrap(rows, tasks=tasks, weights=weights, seed=0)
    halves = rows[0, :count], rows[0, count:]
    assert observed[0] == pytest.approx(0.8 * halves[0].mean() + 0.2 * halves[1].mean())
    deviation = math.sqrt(0.8**2 * halves[0].var() / count + 0.2**2 * halves[1].var() / count)
    assert drawn[0].std() == pytest.approx(deviation, rel=0.03)
    assert np.percentile(drawn[0], 5) == pytest.approx(observed[0] - 1.645 * deviation, abs=0.05 * deviation)


def test_a_verdict_has_the_one_sided_and_the_two_sided_95_percent_bounds() -> None:
    rng = np.random.default_rng(4)
    count = 800
    scores = rng.normal(0.5, 0.2, size=(2, 2 * count))
    both = [
        Entrant(n, f"{n}", f"h{n}", dict(zip(items(count), row.tolist(), strict=True))) for n, row in enumerate(scores)
    ]
    (found,) = verdict_of(*both, count=count).comparisons
    halves = np.split(scores[0] - scores[1], 2)
    deviation = math.sqrt(sum(0.25 * half.var() / count for half in halves))
    for bound, expected in zip((found.lower, *found.interval), (-1.645, -1.96, 1.96), strict=True):
        assert (bound - found.difference) / deviation == pytest.approx(expected, abs=0.09)


def test_the_bootstrap_of_patterns_is_the_bootstrap_of_items() -> None:
    """Against the plain way: draw item numbers, look the rows up."""
    rng = np.random.default_rng(5)
    rows = rng.integers(0, 2, size=(3, 40)).astype(float)
    observed, drawn = bootstrap(rows, tasks=["a"] * 40, weights={"a": 1.0}, seed=1)
    plain = rows[:, rng.integers(0, 40, size=(RESAMPLES, 40))].mean(axis=2)
    assert observed == pytest.approx(rows.mean(axis=1))
    assert drawn.mean(axis=1) == pytest.approx(plain.mean(axis=1), abs=0.005)
    assert np.cov(drawn) == pytest.approx(np.cov(plain), abs=0.0006)
    assert drawn.shape == (3, RESAMPLES)


@pytest.mark.parametrize("graded", [False, True])
def test_rows_that_are_drawn_apart_have_the_distribution_that_they_have_together(graded: bool) -> None:
    rng = np.random.default_rng(6)
    rows = rng.random((4, 60)) if graded else rng.integers(-1, 2, size=(4, 60)).astype(float)
    rows[3] = rows[1]
    tasks, weights = ["a"] * 20 + ["b"] * 40, {"a": 0.3, "b": 0.7}
    observed, drawn = bootstraps(rows, tasks=tasks, weights=weights, seed=2)
    together = bootstrap(rows, tasks=tasks, weights=weights, seed=2)
    assert np.array_equal(drawn, together[1]) == graded  # where every item is a pattern there is nothing to gain
    assert observed == pytest.approx(together[0])
    levels = [2.5, 5, 50, 97.5]
    assert np.percentile(drawn, levels, axis=1) == pytest.approx(np.percentile(together[1], levels, axis=1), abs=0.01)
    assert np.array_equal(drawn[3], drawn[1])


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 0), (12, 4), (4, 12), (300, 250)])
def test_the_sign_test_is_the_binomial_tail(wins: int, losses: int) -> None:
    expected = stats.binom.sf(wins - 1, wins + losses, 0.5) if wins + losses else 1.0
    assert sign_test(wins, losses) == pytest.approx(expected)


@pytest.mark.parametrize(("wins", "losses", "ties"), [(0, 0, 3), (5, 0, 0), (12, 4, 30), (4, 12, 1), (300, 250, 400)])
def test_for_one_task_of_right_and_wrong_the_sign_flips_are_the_exact_sign_test(
    wins: int, losses: int, ties: int
) -> None:
    differences = np.array([[1.0] * wins + [-1.0] * losses + [0.0] * ties])
    found = flip_tests(differences, tasks=["t"] * differences.size, weights={"t": 1.0}, seed=3)
    assert found == pytest.approx([sign_test(wins, losses)], abs=0.016)  # 10 000 flips


def test_the_sign_flips_weigh_tasks_and_graded_scores_as_the_mean_does() -> None:
    """Against every one of the 2^10 flips."""
    rng = np.random.default_rng(5)
    tasks, weights = ["a"] * 3 + ["b"] * 7, {"a": 3.0, "b": 1.0}
    rows = np.round(rng.normal(0.15, 0.4, size=(4, 10)), 2)
    each = np.array([weights[task] / 4 / tasks.count(task) for task in tasks])
    signs = np.array(list(itertools.product((-1, 1), repeat=10)))
    expected = ((rows * each) @ signs.T >= ((rows * each).sum(axis=1) - 1e-12)[:, None]).mean(axis=1)
    assert flip_tests(rows, tasks=tasks, weights=weights, seed=0) == pytest.approx(expected, abs=0.016)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 10])
def test_however_few_items_the_holdout_has_an_equal_candidate_rarely_beats_anybody(count: int) -> None:
    rng = np.random.default_rng(count)
    difficulty = dict.fromkeys(items(count), 0.5)
    beaten = sum(
        verdict_of(entrant(0, rng, difficulty), entrant(1, rng, difficulty), count=count, seed=n).significant
        for n in range(200)
    )
    assert beaten <= 0.09 * 200  # 5 %, and 2.6 standard deviations; of one item the bootstrap alone names 31 %


def test_a_clear_winner_is_declared_with_its_numbers() -> None:
    rng = np.random.default_rng(0)
    probabilities = dict.fromkeys(items(300), 0.9)
    winner, weak = entrant(0, rng, probabilities), entrant(1, rng, dict.fromkeys(probabilities, 0.5))
    verdict = verdict_of(winner, weak, count=300)
    comparison = verdict.comparisons[0]
    assert verdict.significant
    assert verdict.score == pytest.approx(np.mean(list(winner.scores.values())))
    assert comparison.score == pytest.approx(np.mean(list(weak.scores.values())))
    assert comparison.difference == pytest.approx(verdict.score - comparison.score)
    assert comparison.interval[0] < comparison.lower < comparison.difference < comparison.interval[1]
    assert comparison.wins - comparison.losses == pytest.approx(600 * comparison.difference)
    assert verdict.interval[0] < verdict.score < verdict.interval[1]


def test_one_comparator_that_is_not_beaten_is_enough_for_no_winner() -> None:
    rng = np.random.default_rng(0)
    winner = entrant(0, rng, dict.fromkeys(items(200), 0.9))
    weak = entrant(1, rng, dict.fromkeys(items(200), 0.3))
    twin = Entrant(2, "twin", "h0", winner.scores)
    verdict = verdict_of(winner, weak, twin, count=200)
    assert [comparison.beaten for comparison in verdict.comparisons] == [True, False]
    assert not verdict.significant
    assert "not shown to beat twin" in verdict.sentence
    assert verdict.comparisons[1].lower == verdict.comparisons[1].difference == 0.0
    assert verdict.comparisons[1].flip_p == 1.0


def test_a_winner_without_comparators_has_beaten_nobody() -> None:
    verdict = verdict_of(entrant(0, np.random.default_rng(0), dict.fromkeys(items(10), 0.9)), count=10)
    assert not verdict.significant


def test_a_verdict_is_the_same_for_the_same_seed_and_survives_json() -> None:
    import json

    rng = np.random.default_rng(0)
    pair = [entrant(n, rng, dict.fromkeys(items(50), 0.5)) for n in range(2)]
    first, again = verdict_of(*pair, count=50), verdict_of(*pair, count=50)
    assert first == again
    assert verdict_of(*pair, count=50, seed=1) != first
    assert verdict_from_dict(json.loads(json.dumps(verdict_to_dict(first)))) == first


def test_a_verdict_of_before_the_sign_flips_stays_what_it_was() -> None:
    rng = np.random.default_rng(0)
    verdict = verdict_of(
        entrant(0, rng, dict.fromkeys(items(50), 0.9)), entrant(1, rng, dict.fromkeys(items(50), 0.3)), count=50
    )
    data = verdict_to_dict(verdict)
    data["comparisons"] = [
        {name: value for name, value in entry.items() if name != "flip_p"} | {"sign_p": 0.4}
        for entry in data["comparisons"]
    ]
    assert verdict_from_dict(data).significant


def test_under_the_null_each_comparison_rejects_about_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """T10: every candidate answers each item right with the same probability; 1000 repetitions, nominal 5 %."""
    monkeypatch.setattr(scores, "RESAMPLES", 2000)
    rng = np.random.default_rng(2024)
    count, repetitions = 100, 1000
    difficulty = dict(zip(items(count), rng.beta(2, 2, size=2 * count), strict=True))
    beaten = sum(
        verdict_of(entrant(0, rng, difficulty), entrant(1, rng, difficulty), count=count, seed=repetition).significant
        for repetition in range(repetitions)
    )
    assert 0.035 * repetitions <= beaten <= 0.065 * repetitions


def test_under_the_null_with_several_comparators_a_winner_is_rarer_still() -> None:
    rng = np.random.default_rng(7)
    difficulty = dict(zip(items(100), rng.beta(2, 2, size=200), strict=True))
    found = sum(
        verdict_of(*(entrant(n, rng, difficulty) for n in range(4)), count=100, seed=repetition).significant
        for repetition in range(60)
    )
    assert found <= 0.05 * 60


def test_a_candidate_three_points_better_is_declared_four_times_of_five_on_4000_items() -> None:
    """T10, power: items of very different difficulty, so that paired differences are rare; 3 points planted."""
    rng = np.random.default_rng(11)
    count = 2000
    base = rng.beta(0.5, 0.5, size=2 * count)
    names = list(items(count))
    worse = dict(zip(names, base, strict=True))
    better = dict(zip(names, np.clip(base + 0.03 * (base < 0.97), 0, 1), strict=True))
    found = sum(
        verdict_of(entrant(0, rng, better), entrant(1, rng, worse), count=count, seed=repetition).significant
        for repetition in range(40)
    )
    assert found >= 32


def simulated_cohorts(seed: int) -> tuple[list[WindowScore], dict[int, float]]:
    """Cohorts of 8 on windows of 30 items; cohort levels rise, windows differ in difficulty."""
    rng = random.Random(seed)
    scores, truth = [], {}
    for cohort in range(20):
        level, luck = 0.4 + 0.02 * cohort, rng.gauss(0, 0.07)
        for member in range(8):
            number = cohort * 8 + member
            truth[number] = level + rng.gauss(0, 0.03)
            share = sum(rng.random() < truth[number] + luck for _ in range(30)) / 30
            scores.append(WindowScore(number, 0, cohort, 30, share))
    return scores, truth


def test_estimates_are_closer_to_the_truth_than_the_scores_themselves() -> None:
    for seed in range(3):
        scores, truth = simulated_cohorts(seed)
        estimated = estimates(scores)
        error = np.mean([(estimated[entry.number] - truth[entry.number]) ** 2 for entry in scores])
        plain = np.mean([(entry.score - truth[entry.number]) ** 2 for entry in scores])
        assert error < plain / 3


def test_estimates_keep_the_order_within_a_cohort() -> None:
    scores, _ = simulated_cohorts(0)
    estimated = estimates(scores)
    for cohort in range(20):
        members = [entry for entry in scores if entry.cohort == cohort]
        by_score = sorted(members, key=lambda entry: (entry.score, entry.number))
        assert [e.number for e in by_score] == [
            e.number for e in sorted(members, key=lambda entry: (estimated[entry.number], entry.number))
        ]


def test_estimates_of_one_candidate_alone_are_its_score() -> None:
    assert estimates([WindowScore(4, 0, 0, 15, 0.6)]) == {4: pytest.approx(0.6)}
    assert estimates([]) == {}
