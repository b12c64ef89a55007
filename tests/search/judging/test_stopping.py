"""When a candidate is stopped: rungs, the reasons, and how often which candidate meets them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from search.judging.objectives import Facts, Goals, ObjectiveEntry, make_goals
from search.judging.stopping import LEVEL, Field, Looks, Measure, dominated, look, loses

MEASURE = Measure({f"i{n}": "task" for n in range(400)}, {"task": 1.0})


def items(scores: Sequence[float]) -> dict[str, float]:
    return {f"i{n}": float(score) for n, score in enumerate(scores)}


def against(incumbent: Sequence[float], *, complete: tuple[float, ...] = (), capacity: int = 8) -> Field:
    return Field(items(incumbent), complete, capacity)


@pytest.mark.parametrize("size", [60, 61, 75, 150, 397, 1000])
def test_rungs_grow_to_the_whole_window_and_each_can_say_something(size: int) -> None:
    rungs = Looks().rungs(size)
    assert list(rungs) == sorted(set(rungs))
    assert rungs[-1] == size
    assert rungs[0] >= 6


def test_a_small_window_is_scored_at_once() -> None:
    assert Looks().rungs(59) == (59,)
    assert Looks(shares=()).rungs(500) == (500,)
    assert Looks().rungs(60, parts=3) == (30, 60)  # of three tasks eight items and fifteen are too few
    assert Looks(from_items=15).rungs(15) == (8, 15)  # an eighth and a quarter of it are too few to tell


def test_nobody_is_stopped_before_there_is_an_incumbent() -> None:
    assert look(items([0.0] * 20), list(MEASURE.task_of), Field(None, (), 8), MEASURE) is None


def test_six_lost_items_stop_a_candidate_and_five_do_not() -> None:
    window = [f"i{n}" for n in range(100)]
    incumbent = [1.0] * 100
    for lost, expected in ((5, None), (6, "worse")):
        scores = items([0.0] * lost + [1.0] * (20 - lost))
        assert look(scores, window, against(incumbent), MEASURE) == expected


def test_graded_scores_are_compared_by_how_much_they_differ() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.normal(size=30)
    assert loses(items(theirs - 0.4 + 0.1 * rng.normal(size=30)), items(theirs))
    assert not loses(items(theirs + 0.4), items(theirs))
    assert not loses(items(theirs), items(theirs))


def test_a_candidate_that_cannot_reach_the_better_half_of_its_cohort_any_more_is_too_late() -> None:
    window = [f"i{n}" for n in range(20)]
    scores = items([1.0] * 5 + [0.0] * 5)  # at best .75
    incumbent = [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0] + [1.0] * 10
    for complete, expected in (((0.8, 0.9), "too late"), ((0.7, 0.9), None), ((0.9,), None)):
        assert look(scores, window, against(incumbent, complete=complete, capacity=4), MEASURE) == expected


def test_a_candidate_that_is_ahead_in_the_weighted_mean_goes_on() -> None:
    """It loses seven items of a task that hardly counts and wins three of the one that does."""
    tasks = {f"i{n}": "light" if n < 10 else "heavy" for n in range(20)}
    measure = Measure(tasks, {"light": 0.05, "heavy": 0.95})
    theirs = [1.0] * 10 + [0.0] * 10
    scores = items([0.0] * 10 + [1.0] * 2 + [0.0] * 8)
    assert loses(scores, items(theirs))
    assert look(scores, list(tasks), against(theirs), measure) is None
    assert look(scores, list(tasks), against(theirs), Measure(tasks, {"light": 0.5, "heavy": 0.5})) == "worse"


# ------------------------------------------------------------------------------------------------- several objectives

TWO = {f"i{n}": "even" if n % 2 == 0 else "odd" for n in range(400)}


def goals(*objectives: str) -> Goals:
    entries = [ObjectiveEntry(of=of) for of in objectives]
    return make_goals(entries, [], task_of=TWO, weights={"even": 0.5, "odd": 0.5})


def facts(even: Sequence[float], odd: Sequence[float], *, tokens: float = 10.0, parameters: float = 100.0) -> Facts:
    scores = {f"i{2 * n}": score for n, score in enumerate(even)} | {f"i{2 * n + 1}": s for n, s in enumerate(odd)}
    rows = {item: tokens + place % 3 for place, item in enumerate(scores)}
    return Facts({item: float(score) for item, score in scores.items()}, {"tokens": rows}, parameters)


GOOD, BAD, NEARLY = [1.0] * 8, [0.0] * 8, [0.0] * 5 + [1.0] * 3
BEST = facts(GOOD, GOOD)


@pytest.mark.parametrize(
    ("objectives", "own", "stopped"),
    [
        (("task:even", "task:odd"), facts(BAD, BAD), True),
        (("task:even", "task:odd"), facts(BAD, GOOD), False),  # as good in one of them
        (("task:even", "task:odd"), facts(BAD, NEARLY), False),  # five lost items of one may be chance
        (("score", "tokens"), facts(BAD, BAD, tokens=30), True),
        (("score", "tokens"), facts(BAD, BAD, tokens=9), False),  # it is worth its price
        (("score", "parameters"), facts(BAD, BAD), True),
        (("score", "parameters"), facts(BAD, BAD, parameters=99), False),
        (("score", "parameters"), facts(NEARLY, GOOD, parameters=300), False),
        (("worst", "score"), facts(BAD, BAD), True),
        (("worst", "score"), facts(BAD, GOOD), False),  # lower for sure only where every task is
        (("parameters",), facts(BAD, BAD, parameters=300), False),  # nothing that items could tell
    ],
)
def test_with_objectives_only_who_is_dominated_beyond_noise_is_stopped(
    objectives: tuple[str, ...], own: Facts, stopped: bool
) -> None:
    assert dominated(own, [BEST], goals(*objectives)) == ("dominated" if stopped else None)
    assert dominated(own, [own], goals(*objectives)) is None
    assert dominated(own, [], goals(*objectives)) is None


def test_two_rivals_of_which_each_is_better_somewhere_stop_nobody() -> None:
    rivals = [facts(GOOD, BAD), facts(BAD, GOOD)]
    assert dominated(facts(BAD, BAD), rivals, goals("task:even", "task:odd")) is None


# ------------------------------------------------------------------------------------------------ how often whom


def answers(accuracies: Sequence[float], rng: np.random.Generator, *, size: int = 400) -> np.ndarray:
    """[candidate, item] 0/1 scores with the given means that agree about most items: each item has a difficulty."""
    hardness = rng.normal(size=size)
    noise = rng.normal(size=(len(accuracies), size))
    levels = np.sqrt(0.6) * hardness + np.sqrt(0.4) * noise  # correlation .6
    quantiles = np.array([np.quantile(rng.normal(size=20_000), 1 - a) for a in accuracies])
    return (levels > quantiles[:, None]).astype(float)


def fate(own: np.ndarray, theirs: np.ndarray, looks: Looks) -> int:
    """Items after which a candidate is stopped (all of them: never)."""
    incumbent = against(list(theirs))
    window = [f"i{n}" for n in range(len(own))]
    for seen in looks.rungs(len(own))[:-1]:
        if look(items(own[:seen]), window, incumbent, MEASURE):
            return seen
    return len(own)


@pytest.mark.parametrize(
    ("accuracy", "stopped_at_most", "stopped_at_least", "share_at_most"),
    [(0.62, 0.03, 0.0, 1.0), (0.60, 0.06, 0.0, 1.0), (0.55, 0.75, 0.10, 0.95), (0.40, 1.0, 0.99, 0.25)],
)
def test_a_better_candidate_is_hardly_ever_stopped_and_a_hopeless_one_soon(
    accuracy: float, stopped_at_most: float, stopped_at_least: float, share_at_most: float
) -> None:
    """Incumbent .60, 400 items, 300 draws; LEVEL at each of three looks."""
    assert LEVEL == 0.02
    rng = np.random.default_rng(7)
    fates = []
    for _ in range(300):
        theirs, own = answers([0.60, accuracy], rng)
        fates.append(fate(own, theirs, Looks()))
    stopped = float(np.mean([items_seen < 400 for items_seen in fates]))
    assert stopped_at_least <= stopped <= stopped_at_most
    assert np.mean(fates) / 400 <= share_at_most
