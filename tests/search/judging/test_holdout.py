"""The front and the bounds on the holdout: intervals that cover, chances that are shares of resamples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from search.judging.holdout import Model, judge_bounds, judge_front, make_draws
from search.judging.objectives import ConstraintEntry, Facts, ObjectiveEntry, Reference, make_goals

WEIGHTS = {"letters": 0.5, "numerals": 0.5}
ITEMS = [f"{task}/{n:03d}" for task in WEIGHTS for n in range(200)]
TASK_OF = {item: item.split("/")[0] for item in ITEMS}


def model(number: int, chance: float, *, tokens: float = 10.0, role: Reference = "none", seed: int = 0) -> Model:
    """Right on an item with this chance; so many tokens on average."""
    draw = np.random.default_rng([seed, number])
    scores = {item: float(draw.random() < chance) for item in ITEMS}
    used = {item: tokens + draw.normal() for item in ITEMS}
    return Model(number, f"m{number}", f"h{number}", Facts(scores, {"tokens": used}), role)


def goals(*constraints: dict[str, Any]) -> Any:
    objectives = [ObjectiveEntry(of="score"), ObjectiveEntry(of="measure:tokens", direction="minimize")]
    bounds = [ConstraintEntry(**entry) for entry in constraints]
    return make_goals(objectives, bounds, task_of=TASK_OF, weights=WEIGHTS)


def test_members_that_trade_one_objective_for_the_other_are_surely_on_the_front() -> None:
    models = [model(0, 0.9, tokens=20), model(1, 0.5, tokens=10), model(2, 0.5, tokens=30)]
    front = judge_front(make_draws(goals(), models, seed=0), [0, 1, 2])
    assert [member.chance for member in front] == [1.0, 1.0, 0.0]
    assert front[0].values[0] == pytest.approx(np.mean(list(models[0].facts.scores.values())))
    for member in front:
        for value, (low, high) in zip(member.values, member.intervals, strict=True):
            assert low < value < high


def test_two_models_that_cannot_be_told_apart_share_the_chances() -> None:
    models = [model(0, 0.7, tokens=10), model(1, 0.7, tokens=10)]
    chances = [member.chance for member in judge_front(make_draws(goals(), models, seed=0), [0, 1])]
    assert all(0.05 < chance < 1.0 for chance in chances)
    assert sum(chances) > 1.0  # in every draw somebody is on the front


def test_the_intervals_cover_the_truth_as_often_as_they_say() -> None:
    covered = 0
    for seed in range(24):
        front = judge_front(make_draws(goals(), [model(0, 0.6, seed=seed)], seed=seed), [0])
        low, high = front[0].intervals[0]
        covered += low <= 0.6 <= high
    assert 20 <= covered <= 24


def test_a_bound_names_its_best_parent_and_what_is_left_to_it() -> None:
    models = [
        model(0, 0.8),
        model(1, 0.9, role="best_parent"),
        model(2, 0.3, role="best_parent"),
        model(3, 0.1, role="base"),
    ]
    draws = make_draws(
        goals(
            {"of": "task:letters", "relative_to": "best_parent"},
            {"of": "score", "at_least": 0.0, "relative_to": "base"},
            {"of": "measure:tokens", "at_most": 50.0},
        ),
        models,
        seed=0,
    )
    lost, won, cheap = judge_bounds(draws, 0)
    mean = {m.number: np.mean([m.facts.scores[item] for item in ITEMS if TASK_OF[item] == "letters"]) for m in models}
    assert (lost.title, lost.reference) == ("letters at least best parent -0.02", "m1")
    assert lost.margin == pytest.approx(mean[0] - mean[1] + 0.02)
    assert lost.interval[0] < lost.margin < lost.interval[1]
    assert not lost.kept
    assert (won.reference, won.kept) == ("m3", True)
    assert (cheap.reference, cheap.kept) == ("", True)
    assert cheap.margin == pytest.approx(40, abs=1)


@pytest.mark.parametrize(("right", "kept"), [(156, True), (155, False)])
def test_who_loses_just_what_a_bound_allows_keeps_it_whatever_rounding_says(right: int, kept: bool) -> None:
    scores = {n: {item: float(int(item[-3:]) < n) for item in ITEMS} for n in (right, 160)}
    models = [
        Model(0, "winner", "h0", Facts(scores[right])),
        Model(1, "parent", "h1", Facts(scores[160]), "best_parent"),
    ]
    made = make_goals([], [ConstraintEntry(relative_to="best_parent")], task_of=TASK_OF, weights=WEIGHTS)
    bounds = judge_bounds(make_draws(made, models, seed=0), 0)
    assert [bound.kept for bound in bounds] == [kept, kept]  # 4 of 200 items are .02
    assert [bound.margin for bound in bounds] == [pytest.approx(0 if kept else -0.005)] * 2


def test_what_the_holdout_says_is_what_the_goals_say_where_only_some_tasks_have_the_measure() -> None:
    whole = model(0, 0.6)
    tokens = {item: value for item, value in whole.facts.measures["tokens"].items() if TASK_OF[item] == "letters"}
    some = Model(1, "m1", "h1", Facts(whole.facts.scores, {"tokens": tokens}))
    made = goals({"of": "measure:tokens", "at_most": 11.0})
    draws = make_draws(made, [whole, some], seed=0)
    for index, facts in enumerate((whole.facts, some.facts)):
        for of in ("score", "worst", "task:numerals", "measure:tokens"):
            value, drawn = draws.value(index, of)
            assert value == pytest.approx(made.value(of, facts)[0])
            assert abs(drawn.mean() - value) < 0.05
    assert all(bound.kept for bound in judge_bounds(draws, 1))
