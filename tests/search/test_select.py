"""Nominees: the means first, the best candidates, a soup of them, and somebody for the global stage to be judged by."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulated import LAYERS, make_campaign

from search.campaign_file import SelectionEntry
from search.judging.objectives import ObjectiveEntry
from search.select import Contender, Nominee, Searched, choose, nominate, worths
from search.space import Space, make_space

PARAMETERS = {"weight": {"low": 0, "high": 1.2, "start": 0.5}}
SPACE: Space = make_space(make_campaign(), layers=LAYERS)


def point(stage: int, value: float) -> dict[str, float]:
    return {axis.name: value for axis in SPACE.stages[stage].axes}


CANDIDATES = [
    *[Searched(number, 0, point(0, 0.25 + number / 64), 0.3 + number / 100) for number in range(5)],
    *[Searched(number, 1, point(1, 0.25 + number / 64), 0.3 + number / 100) for number in range(5, 10)],
]
MEANS = [[point(0, 0.5), point(0, 0.625)], [point(1, value / 64) for value in range(40, 60)]]


def nominees(**rules: int) -> list[Nominee]:
    return nominate(SPACE, CANDIDATES, means=MEANS, rules=SelectionEntry(**rules))


def test_the_last_mean_comes_first_and_earlier_ones_a_tenth_of_the_history_apart() -> None:
    means = [nominee for nominee in nominees(means=3) if nominee.origin == "mean" and nominee.stage == 1]
    assert [nominee.params for nominee in means] == [MEANS[1][-1], MEANS[1][-3], MEANS[1][-5]]
    assert [nominee.label for nominee in means][:2] == ["mean of layers", "mean of layers, 2 cohorts before"]
    short = nominate(SPACE, CANDIDATES, means=[MEANS[0], MEANS[1][-2:]], rules=SelectionEntry(means=2))
    assert "mean of layers, 1 cohort before" in [nominee.label for nominee in short]


def test_the_best_candidates_keep_their_numbers() -> None:
    found = [nominee.number for nominee in nominees(top=3) if nominee.number is not None]
    assert found == [4, 9, 8, 7]  # the best global one, then the best of all


def test_the_global_stage_sends_its_mean_and_its_best() -> None:
    found = [(nominee.origin, nominee.params) for nominee in nominees() if nominee.stage == 0]
    assert found == [("mean", MEANS[0][-1]), ("sampler", CANDIDATES[4].params)]


def test_the_soup_is_the_average_of_the_best_lifted_to_the_finest_stage() -> None:
    soup = next(nominee for nominee in nominees(soup=2) if nominee.origin == "soup")
    expected = (CANDIDATES[9].params, CANDIDATES[8].params)
    assert soup.stage == 1
    for name, value in soup.params.items():
        assert abs(value - (expected[0][name] + expected[1][name]) / 2) <= 0.5 / 256
    assert not [nominee for nominee in nominees(soup=0) if nominee.origin == "soup"]


def test_a_point_is_nominated_once() -> None:
    twins = [*CANDIDATES, Searched(10, 1, MEANS[1][-1], 0.9)]
    found = nominate(SPACE, twins, means=MEANS, rules=SelectionEntry())
    keys = [(nominee.stage, tuple(nominee.params.items())) for nominee in found]
    assert len(keys) == len(set(keys))
    assert found[0].origin == "mean"


def test_without_a_distribution_the_best_candidates_and_their_soup_stand() -> None:
    found = nominate(SPACE, CANDIDATES, means=[[], []], rules=SelectionEntry(top=2, soup=2))
    assert [nominee.origin for nominee in found] == ["sampler", "sampler", "sampler", "soup"]


def test_somebody_is_nominated_whatever_the_rules_leave_out() -> None:
    one_stage = make_space(
        make_campaign(space={"parameters": PARAMETERS, "stages": [{"name": "global"}]}), layers=LAYERS
    )
    found = nominate(one_stage, CANDIDATES[:5], means=[[]], rules=SelectionEntry(top=0, soup=0))
    assert [nominee.number for nominee in found] == [4]


def test_points_that_make_one_recipe_are_nominated_once_and_the_soup_is_of_different_ones() -> None:
    both = make_campaign(
        sources=["models/a", "models/b"],
        space={"method": ["linear", "karcher"], "parameters": PARAMETERS, "stages": [{"name": "global"}]},
    )
    mixed = make_space(both, layers=LAYERS)
    axes = [axis.name for axis in mixed.stages[0].axes if axis.kind == "float"]
    found = [
        Searched(number, 0, {"method": method} | dict.fromkeys(axes, number / 16), 1 - number / 100)
        for number, method in enumerate(["karcher"] * 4 + ["linear"] * 6)  # the best four are one recipe
    ]
    rules = SelectionEntry(top=3, soup=3)
    nominated = nominate(mixed, found, means=[[]], rules=rules)
    assert [nominee.number for nominee in nominated] == [0, 4, 5, None]


def test_a_search_that_ended_in_the_global_stage_nominates_its_means_only() -> None:
    found = nominate(SPACE, CANDIDATES[:5], means=[MEANS[0], []], rules=SelectionEntry())
    assert {nominee.stage for nominee in found} == {0}
    assert found[0].label == "mean of global"


def test_means_and_soups_keep_the_constraints_of_the_space() -> None:
    stages = [{"name": "s"}]
    weight = {"low": 0, "high": 1.5, "start": 0.25}
    text = "weight/letters * weight/numerals <= 0.25"  # not convex: what lies between two good points may break it
    entry = {"parameters": {"weight": weight}, "constraints": [text], "stages": stages}
    space = make_space(make_campaign(space=entry), layers=LAYERS)
    ends = [{"weight/letters": a, "weight/numerals": b, "weight/plurals": 0.5} for a, b in ((1.5, 0.0), (0.0, 1.5))]
    middle = {"weight/letters": 0.75, "weight/numerals": 0.75, "weight/plurals": 0.5}
    searched = [Searched(number, 0, params, 0.5) for number, params in enumerate(ends)]
    found = nominate(space, searched, means=[[middle]], rules=SelectionEntry(soup=2))
    assert space.violation(0, middle) > 0
    assert {nominee.origin for nominee in found} == {"mean", "sampler"}  # repaired, mean and soup are one point
    assert all(space.violation(0, nominee.params) == 0 for nominee in found)


def contender(number: int, *values: float, violation: float = 0.0, score: float = 0.0) -> Contender:
    return Contender(number, score, values, (0.01,) * len(values), violation)


def test_the_winner_of_one_objective_is_the_best_feasible_contender() -> None:
    ranked = [contender(1, score=0.9, violation=0.1), contender(2, score=0.5), contender(3, score=0.7)]
    assert choose(ranked, worth=[1.0]) == (3, [])
    assert choose(ranked[:1], worth=[1.0]) == (1, [])


def test_without_a_feasible_contender_the_least_infeasible_one_stands() -> None:
    ranked = [contender(1, score=0.9, violation=0.2), contender(2, score=0.5, violation=0.1)]
    assert choose(ranked, worth=[1.0]) == (2, [])


def test_the_front_has_no_dominated_and_no_indistinguishable_members_and_the_worthiest_wins() -> None:
    ranked = [
        contender(1, 0.9, -30.0),
        contender(2, 0.5, -10.0),
        contender(3, 0.5, -20.0),
        contender(4, 0.895, -29.995),
        contender(5, 1.0, -5.0, violation=0.5),
    ]
    assert choose(ranked, worth=[1.0, 0.001]) == (1, [1, 2])
    assert choose(ranked, worth=[1.0, 0.1]) == (2, [2, 1])


def test_a_unit_is_worth_what_the_file_says_or_one_range_of_the_parents() -> None:
    parents, contenders = [(0.2, 10.0), (0.6, 10.0)], [(0.1, 5.0), (0.2, 10.0)]
    tasks = [ObjectiveEntry(of="task:a"), ObjectiveEntry(of="task:b")]
    weighted = [ObjectiveEntry(of="score", weight=2.0), ObjectiveEntry(of="tokens", weight=0.5)]
    assert worths(weighted, parents, contenders) == [2.0, 0.5]
    assert worths(tasks, parents, contenders) == pytest.approx([1 / 0.4, 1 / 5.0])
    assert worths(tasks[:1], [], [(1.0,), (1.0,)]) == [1.0]


def test_the_best_by_score_is_not_nominated_where_it_is_out_of_bounds_and_others_are_not() -> None:
    tempting = replace(CANDIDATES[9], estimate=0.9, violation=0.1)
    found = nominate(SPACE, [*CANDIDATES[:9], tempting], means=MEANS, rules=SelectionEntry(top=2, soup=2))
    assert {8, 7} <= {nominee.number for nominee in found}
    assert 9 not in {nominee.number for nominee in found}
    soup = next(nominee for nominee in found if nominee.origin == "soup")
    assert soup.params["weight/letters/attention/0"] == pytest.approx(0.25 + 7.5 / 64)
    everybody = [replace(entry, violation=0.1 + entry.number / 100) for entry in CANDIDATES]
    numbers = {n.number for n in nominate(SPACE, everybody, means=MEANS, rules=SelectionEntry(top=2, soup=0))}
    assert {0, 1} <= numbers  # nobody is within the bounds: the least infeasible


def test_without_weights_a_cost_is_worth_nothing_beside_a_skill() -> None:
    score, tokens, size = (ObjectiveEntry(of=of) for of in ("score", "tokens", "parameters"))
    parents = [(0.6, -5.3, -9.0), (0.8, -5.2, -9.0)]
    assert worths([score, tokens, size], parents, parents) == pytest.approx([1 / 0.2, 0.0, 0.0])
    assert worths([tokens], [(-5.3,), (-5.2,)], []) == pytest.approx([1 / 0.1])
    silent = Contender(1, 0.0, (0.0, -0.7), (0.02, 0.2))
    able = Contender(2, 0.75, (0.75, -5.2), (0.02, 0.2))
    worth = worths([score, tokens], [row[:2] for row in parents], [])
    assert choose([silent, able], worth=worth) == (2, [2, 1])


def test_of_several_objectives_the_knee_the_ends_of_the_front_and_points_between_are_nominated() -> None:
    front = [
        Searched(number, 1, point(1, 0.25 + number / 64), 0.1, (number / 10, 1 - (number / 10) ** 2), (0.01, 0.01))
        for number in range(11)
    ]  # an arc, whose knee is number 5
    dominated = Searched(11, 1, point(1, 0.5), 0.9, (0.1, 0.1), (0.01, 0.01))
    found = nominate(SPACE, [*front, dominated], means=[[], []], rules=SelectionEntry(front=4, top=1, soup=0))
    numbers = [nominee.number for nominee in found]
    assert numbers[0] == 5
    assert {0, 10} <= set(numbers[:4])
    assert 11 in numbers  # as the best by score, not as a member of the front
    assert len(numbers) == 5
