"""Objectives and constraints: values of a candidate from its items, and by how much it is out of bounds."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
from simulated import make_campaign

from engine.errors import CampaignError
from search.judging.forwards import with_forwards
from search.judging.objectives import (
    ConstraintEntry,
    Facts,
    Goals,
    ObjectiveEntry,
    make_goals,
    refuse_contradictions,
    refuse_unmeasured,
)

WEIGHTS = {"letters": 0.75, "numerals": 0.25}
TASK_OF = {f"{task}/{n}": task for task in WEIGHTS for n in range(4)}


def goals(objectives: list[dict[str, Any]], constraints: list[dict[str, Any]] | None = None) -> Goals:
    return make_goals(
        [ObjectiveEntry(**entry) for entry in objectives],
        [ConstraintEntry(**entry) for entry in constraints or []],
        task_of=TASK_OF,
        weights=WEIGHTS,
    )


def facts(letters: float, numerals: float, *, tokens: float = 10.0, parameters: float = 100.0) -> Facts:
    """A candidate that is right on so many of the four items of each task."""
    right = {"letters": letters, "numerals": numerals}
    scores = {item: float(int(item[-1]) < right[task]) for item, task in TASK_OF.items()}
    return Facts(scores, {"tokens": dict.fromkeys(TASK_OF, tokens)}, parameters)


def test_every_kind_of_objective_has_its_value() -> None:
    named = goals(
        [
            {"of": "score"},
            {"of": "worst"},
            {"of": "task:numerals"},
            {"of": "measure:tokens", "direction": "minimize"},
            {"of": "parameters"},
        ]
    )
    values = named.values(facts(4, 1))
    assert values == (0.75 * 1.0 + 0.25 * 0.25, 0.25, 0.25, 10.0, 100.0)
    assert named.oriented(values) == (*values[:3], -10.0, -100.0)


def test_some_measures_say_by_themselves_which_way_is_better() -> None:
    short, full = ObjectiveEntry(of="tokens"), ObjectiveEntry(of="measure:tokens", direction="minimize")
    assert (short.of, short.sign, short.title) == (full.of, full.sign, full.title) == ("measure:tokens", -1.0, "tokens")
    assert ObjectiveEntry(of="forwards", direction="maximize").sign == 1.0
    assert ObjectiveEntry(of="forwards").sign == -1.0
    assert ConstraintEntry(of="tokens", at_most=9).of == "measure:tokens"


def test_forwards_are_layers_times_passes_and_what_a_function_reports_stays() -> None:
    known = Facts(dict.fromkeys("abcd", 1.0), {"tokens": {"a": 9.0, "b": 0.0, "c": 500.0}, "forwards": {"b": 7.0}})
    found = with_forwards(known, layers=3, read={"c"})
    assert found.measures["forwards"] == {"a": 30.0, "b": 7.0, "c": 3.0, "d": 3.0}
    assert found.scores == known.scores
    assert found.measures["tokens"] == known.measures["tokens"]


def test_a_measure_that_nobody_reports_is_named_with_its_key_and_those_there_are() -> None:
    objectives = [ObjectiveEntry(of="score"), ObjectiveEntry(of="tokens")]
    refuse_unmeasured(objectives, [], known={"tokens", "acc"}, origin="c.yml")
    with pytest.raises(CampaignError) as caught:
        refuse_unmeasured(
            objectives, [ConstraintEntry(of="measure:token", at_most=3)], known={"tokens"}, origin="c.yml"
        )
    assert caught.value.message == (
        "c.yml: constraints[0].of: no task reports the measure 'token'; did you mean 'tokens'? They report tokens."
    )
    with pytest.raises(CampaignError, match=r"objectives\[1\]\.of: .* 'tokens'; they report scores only"):
        refuse_unmeasured(objectives, [], known=(), origin="c.yml")


def test_without_objectives_the_score_is_the_weighted_mean_over_tasks() -> None:
    assert goals([]).scalar(facts(2, 4)) == 0.75 * 0.5 + 0.25
    assert goals([]).values(facts(2, 4)) == ()


def test_one_number_counts_costs_only_where_a_weight_says_what_they_are_worth() -> None:
    tokens = {"of": "measure:tokens", "direction": "minimize"}
    unweighted = goals([{"of": "task:letters"}, {"of": "task:numerals"}, tokens])
    assert unweighted.scalar(facts(4, 2)) == 0.75
    weighted = goals([{"of": "score", "weight": 2.0}, {**tokens, "weight": 0.01}])
    assert weighted.scalar(facts(4, 4, tokens=30)) == pytest.approx((2.0 - 0.3) / 2)
    assert goals([tokens]).scalar(facts(4, 4, tokens=30)) == -30.0


def test_a_constraint_on_tasks_is_one_bound_per_task_each_with_its_best_parent() -> None:
    kept = goals([], [{"relative_to": "best_parent"}])
    parents = {"best_parent": [facts(4, 0), facts(0, 4)]}
    assert [bound.of for bound in kept.bounds] == ["task:letters", "task:numerals"]
    assert kept.violation(facts(4, 4), parents, errors=0.0) == 0.0
    assert kept.violation(facts(3, 4), parents, errors=0.0) == pytest.approx(0.25 - 0.02)
    assert kept.violation(facts(3, 2), parents, errors=0.0) == pytest.approx(0.25 + 0.5 - 0.04)
    assert kept.violation(facts(0, 0), {}, errors=0.0) == 0.0  # nobody to compare with is no reason to refuse


def test_a_loss_within_the_noise_of_a_small_window_is_no_violation() -> None:
    kept = goals([], [{"of": "task:letters", "relative_to": "best_parent"}])
    parents = {"best_parent": [facts(4, 0)]}
    error = 0.25  # one of four paired items lost: standard error of the mean difference
    assert kept.shortfall(kept.bounds[0], facts(3, 0), facts(4, 0)) == pytest.approx((0.23, error))
    assert kept.violation(facts(3, 0), parents, errors=1.0) == 0.0
    assert kept.violation(facts(1, 0), parents, errors=1.0) > 0.0


def test_bounds_on_costs_count_in_units_of_the_bound() -> None:
    most = goals([], [{"of": "measure:tokens", "at_most": 8.0}])
    assert most.violation(facts(4, 4, tokens=8), {}, errors=0.0) == 0.0
    assert most.violation(facts(4, 4, tokens=12), {}, errors=0.0) == pytest.approx(0.5)
    relative = goals([], [{"of": "measure:tokens", "at_most": 2.0, "relative_to": "best_parent"}])
    parents = {"best_parent": [facts(4, 4, tokens=10), facts(4, 4, tokens=8)]}
    assert relative.violation(facts(4, 4, tokens=10), parents, errors=0.0) == 0.0
    assert relative.violation(facts(4, 4, tokens=15), parents, errors=0.0) == pytest.approx(0.5)


def test_unpaired_comparisons_take_both_errors_into_account() -> None:
    bound = goals([], [{"of": "task:letters", "relative_to": "base"}]).bounds[0]
    mine = facts(2, 0)
    other = Facts({"letters/9": 1.0, "letters/8": 0.0})
    named = make_goals([], [], task_of={**TASK_OF, "letters/9": "letters", "letters/8": "letters"}, weights=WEIGHTS)
    lost, error = named.shortfall(bound, mine, other)
    assert lost == pytest.approx(0.5 - 0.02 - 0.5)
    assert error == pytest.approx(math.hypot(math.sqrt(1 / 3 / 4), math.sqrt(0.5 / 2)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objectives": [{"of": "scoer"}]}, "objectives[0].of: got 'scoer', did you mean 'score'?"),
        ({"objectives": [{"of": "task:leters"}]}, "no task 'leters', did you mean 'letters'?"),
        ({"objectives": [{"of": "score", "direction": "up"}]}, "objectives[0].direction: got 'up'"),
        ({"objectives": [{"of": "score", "direction": "minimize"}]}, "of item scores larger is better"),
        ({"objectives": [{"of": "measure:acc"}]}, "objectives[0]: of: measure:acc needs a `direction`"),
        ({"constraints": [{"of": "tokens"}]}, "of: measure:tokens needs at_least or at_most"),
        ({"objectives": [{"of": "score"}, {"of": "score"}]}, "two objectives are called 'score'"),
        ({"objectives": [{"of": "score", "weight": 1}, {"of": "worst"}]}, "give every objective a weight, or none"),
        ({"constraints": [{}]}, "needs at_least or at_most"),
        ({"constraints": [{"at_least": 0, "at_most": 1}]}, "give at_least or at_most"),
        ({"constraints": [{"of": "task:x", "at_least": 0.5}]}, "constraints[0].of: the campaign has no task 'x'"),
        ({"constraints": [{"relative_to": "parent"}]}, "constraints[0].relative_to: got 'parent'"),
        ({"sampler": "nsga"}, "sampler: got 'nsga', did you mean 'nsga"),
    ],
)
def test_goals_that_make_no_sense_are_refused_when_the_file_is_read(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(CampaignError) as caught:
        make_campaign(**changes)
    assert caught.value.message.startswith("simulated.yml: ")
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("first", "second", "contradict"),
    [
        ({"of": "tasks", "at_most": 0.5}, {"of": "task:a", "at_least": 0.6}, True),
        ({"of": "worst", "at_least": 0.6}, {"of": "task:b", "at_most": 0.5}, True),
        ({"of": "worst", "at_least": 0.6}, {"of": "score", "at_most": 0.5}, True),
        ({"of": "tasks", "at_most": 0.5}, {"of": "score", "at_least": 0.6}, True),
        ({"of": "tokens", "at_least": 60}, {"of": "tokens", "at_most": 50}, True),
        ({"of": "tasks", "relative_to": "base"}, {"of": "task:a", "at_most": -0.1, "relative_to": "base"}, True),
        ({"of": "task:a", "at_least": 0.5}, {"of": "task:a", "at_most": 0.5}, False),
        ({"of": "task:a", "at_least": 0.6}, {"of": "task:b", "at_most": 0.5}, False),
        ({"of": "task:a", "at_least": 0.6}, {"of": "worst", "at_most": 0.5}, False),
        ({"of": "score", "at_least": 0.6}, {"of": "task:a", "at_most": 0.5}, False),
        ({"of": "task:a", "at_least": 0.6}, {"of": "task:a", "at_most": 0.1, "relative_to": "base"}, False),
        (
            {"of": "worst", "at_least": 0, "relative_to": "base"},
            {"of": "task:a", "at_most": -0.1, "relative_to": "base"},
            False,
        ),
    ],
)
def test_bounds_contradict_each_other_where_no_scores_keep_both(
    first: dict[str, Any], second: dict[str, Any], contradict: bool
) -> None:
    for pair in ((first, second), (second, first)):
        entries = [ConstraintEntry(**entry) for entry in pair]
        with pytest.raises(ValueError, match="contradicts") if contradict else nullcontext():
            refuse_contradictions(entries, tasks=["a", "b"])
