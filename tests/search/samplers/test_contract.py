"""Every sampler of the table: proposals are a function of what was told, seed and number, and no result is lost."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from simulated import LAYERS, make_campaign

from engine.errors import CampaignError
from search.campaign_file import SAMPLERS
from search.samplers import NAMES, TABLE, OptunaSampler, Sampler, Setup, Told, choose, make_sampler
from search.samplers.contract import ranked
from search.space import Space, make_space

PATHS = ("optuna.samplers:NSGAIISampler", "optuna.samplers:QMCSampler", "optuna.samplers:CmaEsSampler")


def one_stage() -> Space:
    space = {
        "parameters": {"weight": {"low": 0, "high": 1.2, "start": 0.5}},
        "stages": [{"name": "global", "population": 6, "sigma": 0.2}],
    }
    return make_space(make_campaign(space=space), layers=LAYERS)


def mixed(**entry: Any) -> Space:
    """Three methods, two of them with densities that only they have."""
    data = {
        "method": ["task_arithmetic", "ties", "dare_ties"],
        "parameters": {
            "weight": {"low": 0, "high": 1.2, "start": 0.5},
            "density": {"low": 0.1, "high": 1, "start": 0.5},
        },
        "stages": [{"name": "mixed", "population": 12, "sigma": 0.2}],
    }
    return make_space(make_campaign(space=data | entry), layers=LAYERS)


SPACE = one_stage()


def setup(name: str, *, seed: int = 5) -> Setup:
    row = TABLE.get(name)
    return Setup(SPACE, seed=seed, objectives=row.objectives[0] if row else 1, constrained=True)


def made(name: str, *, seed: int = 5) -> Sampler:
    return make_sampler(name, setup(name, seed=seed), {}, origin="c.yml")


def told(sampler: Sampler, name: str, number: int, params: Any) -> Told:
    """A result of a smooth landscape; every seventh candidate is lost, every fifth infeasible."""
    unit = SPACE.stages[0].to_unit(params)
    distance = float(((unit - 0.7) ** 2).mean())
    objectives = setup(name).objectives
    values = (
        tuple(-distance + 0.3 * k * float(unit[k % len(unit)]) for k in range(objectives)) if objectives > 1 else ()
    )
    items = {f"i{k}": float(unit[k % 3] > k / 10) for k in range(9)} if sampler.wants_items else {}
    score = None if number % 7 == 6 else -distance
    return Told(number, params, score, values, 0.1 if number % 5 == 4 else 0.0, items=items)


def feed(sampler: Sampler, results: Sequence[Told]) -> None:
    """As a campaign tells: cohorts of six, or one by one."""
    size = 6 if sampler.by_cohort else 1
    for start in range(0, len(results) - size + 1, size):
        sampler.tell(0, results[start : start + size])


def live(sampler: Sampler, name: str, *, candidates: int) -> list[Told]:
    """One worker asks, waits and tells."""
    results: list[Told] = []
    for number in range(candidates):
        params = sampler.ask(0, number)
        sampler.enter(0, number, params)
        results.append(told(sampler, name, number, params))
        if not sampler.by_cohort:
            sampler.tell(0, results[-1:])
        elif len(results) % 6 == 0:
            sampler.tell(0, results[-6:])
    return results


@pytest.mark.parametrize("name", [*(name for name in TABLE if name != "gp"), *PATHS])
def test_a_replay_of_what_was_told_proposes_the_same(name: str) -> None:
    first = made(name)
    results = live(first, name, candidates=18)
    replayed = made(name)
    for result in results:
        replayed.enter(0, result.number, result.params)
        if not replayed.by_cohort:
            replayed.tell(0, [result])
    if replayed.by_cohort:
        feed(replayed, results)
    for number in (18, 19):
        proposals = [sampler.ask(0, number) for sampler in (first, replayed)]
        assert proposals[0] == proposals[1]
        for sampler in (first, replayed):
            sampler.enter(0, number, proposals[0])
    assert len({tuple(result.params.values()) for result in results}) == 18


@pytest.mark.parametrize("name", ["auto", "tpe", "random", "sobol"])  # auto: catcma
def test_a_space_of_categories_alone_is_searched(name: str) -> None:
    space = {"method": "model_stock", "parameters": {"filter_wise": [True, False]}, "subset": True}
    chosen = make_space(make_campaign(space=space | {"stages": [{"name": "s", "population": 6}]}), layers=LAYERS)
    sampler = make_sampler(name, Setup(chosen, seed=5), {}, origin="c.yml")
    results: list[Told] = []
    for number in range(24):
        params = sampler.ask(0, number)
        sampler.enter(0, number, params)
        results.append(Told(number, params, float(list(params.values()).count(True))))
        if not sampler.by_cohort:
            sampler.tell(0, results[-1:])
        elif number % 6 == 5:
            sampler.tell(0, results[-6:])
    assert {tuple(sorted(result.params)) for result in results} == {
        tuple(sorted(a.name for a in chosen.stages[0].axes))
    }
    assert len({tuple(sorted(result.params.items())) for result in results}) > 3
    assert all({*point} == {*results[0].params} for points in sampler.means() for point in points)


def test_a_sampler_goes_on_from_points_that_another_one_drew() -> None:
    """A fork may change the sampler: what was drawn before is known to the new one, as any result is."""
    results = live(made("cma"), "cma", candidates=12)
    for name in ("nsga2", "catcma", "tpe", "optuna.samplers:QMCSampler"):
        sampler = made(name)
        for result in results:
            sampler.enter(0, result.number, result.params)
            if not sampler.by_cohort:
                sampler.tell(0, [told(sampler, name, result.number, result.params)])
        if sampler.by_cohort:
            feed(sampler, results)
        if isinstance(sampler, OptunaSampler):
            known = [trial.params for trial in sampler.study.get_trials() if trial.state.name == "COMPLETE"]
            assert known == [result.params for result in results if result.score is not None]
        drawn = sampler.ask(0, 12)
        assert SPACE.stages[0].rounded(drawn) == drawn


def test_a_gaussian_process_proposes_the_same_after_a_replay() -> None:
    first = made("gp")
    results = live(first, "gp", candidates=11)  # one fit: the first ten are drawn evenly
    replayed = made("gp")
    for result in results:
        replayed.enter(0, result.number, result.params)
        replayed.tell(0, [result])
    assert replayed.ask(0, 11) == first.ask(0, 11)


@pytest.mark.parametrize("name", [name for name in TABLE if name not in ("gp", "tpe")])
def test_another_seed_proposes_something_else_and_every_point_lies_on_the_grid(name: str) -> None:
    one, other = made(name, seed=1), made(name, seed=2)
    points = [result.params for result in live(one, name, candidates=12)]
    assert points != [result.params for result in live(other, name, candidates=12)]
    for point in points:
        assert SPACE.stages[0].rounded(point) == point


@pytest.mark.parametrize("name", ["quadratic", "cma", "catcma", "nsga2", "nsga3", "niches"])
def test_asking_changes_nothing(name: str) -> None:
    quiet, busy = made(name), made(name)
    results = live(quiet, name, candidates=12)
    for start in range(0, 12, 6):
        busy.ask(0, 700 + start)
        feed(busy, results[start : start + 6])
    assert busy.ask(0, 12) == quiet.ask(0, 12)


@pytest.mark.parametrize("name", ["quadratic", "cma", "catcma", "nsga2", "nsga3", "niches", "random", "sobol"])
def test_256_workers_that_finish_in_any_order_use_at_least_99_percent_of_the_results(name: str) -> None:
    sampler, order = made(name), random.Random(0)
    running: list[tuple[int, Any]] = []
    waiting: list[Told] = []
    asked = used = 0
    wanted = 600 if name == "quadratic" else 1000  # its fits cost time
    while asked < wanted or running:
        while asked < wanted and len(running) < 256:
            running.append((asked, sampler.ask(0, asked)))
            sampler.enter(0, *running[-1])
            asked += 1
        number, params = running.pop(order.randrange(len(running)))
        waiting.append(told(sampler, name, number, params))
        if len(waiting) == (6 if sampler.by_cohort else 1):
            sampler.tell(0, waiting)
            used += len(waiting)
            waiting = []
    assert used >= 0.99 * asked
    assert asked == wanted


def test_the_names_that_a_campaign_file_knows_are_those_of_the_table() -> None:
    assert SAMPLERS == NAMES


def test_auto_is_a_cma_for_one_objective_and_nsga_for_several() -> None:
    assert choose("auto", Setup(SPACE)) == "quadratic"
    assert choose("auto", Setup(SPACE, constrained=True)) == "cma"
    assert choose("auto", Setup(SPACE, objectives=3)) == "nsga2"
    assert choose("auto", Setup(SPACE, objectives=4)) == "nsga3"
    assert choose("tpe", Setup(SPACE, objectives=4)) == "tpe"


@pytest.mark.parametrize(
    ("name", "options", "facts", "says"),
    [
        ("nsga", {}, {}, "sampler: got 'nsga', did you mean 'nsga"),
        ("nsga2", {}, {}, "nsga2 looks for a front of 2 objectives or more, the campaign has 1"),
        ("gp", {}, {"objectives": 5}, "gp knows 4 objectives at most, got 5"),
        ("gp", {}, {"candidates": 800}, "beyond 300 candidates, and the budget allows 800"),
        ("cma", {}, {"space": mixed()}, "cma knows numbers only, 'method' is a category"),
        ("cma", {"restart": 1}, {}, "sampler_options.restart: got 1: did you mean 'restarts'?"),
        ("cma", {"restarts": -1}, {}, "sampler_options.restarts: got -1"),
        ("json:JSONDecoder", {}, {}, "'json:JSONDecoder' is no Optuna sampler"),
        ("nowhere.at_all:Sampler", {}, {}, "'nowhere.at_all:Sampler' cannot be imported"),
        ("optuna.samplers:TPESampler", {"gama": 3}, {}, "sampler_options.gama: TPESampler: did you mean 'gamma'?"),
        (
            "tpe",
            {"n_ei_candidates": 8, "gamma": "abc"},
            {},
            "sampler_options.gamma: got 'abc', which TPESampler refuses: ",
        ),
        ("optuna.samplers:GridSampler", {}, {}, "sampler: GridSampler cannot search this campaign: "),
        ("optuna.samplers:BruteForceSampler", {}, {}, "sampler: BruteForceSampler cannot search this campaign: "),
    ],
)
def test_a_sampler_that_cannot_work_is_refused_with_the_reason(
    name: str, options: dict[str, Any], facts: dict[str, Any], says: str
) -> None:
    with pytest.raises(CampaignError, match=r"^c\.yml: ") as caught:
        make_sampler(name, Setup(**{"space": SPACE, **facts}), options, origin="c.yml")
    assert says in caught.value.message


class Tiring(optuna.samplers.RandomSampler):
    """Works for a while."""

    def after_trial(self, study: optuna.Study, trial: Any, state: Any, values: Any) -> None:
        if trial.number == 20:
            study.stop()  # as GridSampler does where it has asked for everything


def test_what_a_sampler_of_others_raises_later_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "others", SimpleNamespace(Tiring=Tiring))
    sampler = make_sampler("others:Tiring", Setup(SPACE, baselines=0), {}, origin="c.yml")
    for number in range(20):
        sampler.tell(0, [Told(number, sampler.ask(0, number), 0.5)])
    point = sampler.ask(0, 20)
    with pytest.raises(CampaignError, match=r"^sampler: Tiring fails at candidate 20: RuntimeError: `Study.stop` is"):
        sampler.tell(0, [Told(20, point, 0.5)])


def test_feasible_ones_go_first_then_those_that_were_not_stopped_then_the_better_ones_and_lost_ones_last() -> None:
    best_first = [
        Told(0, {}, 0.6),
        Told(1, {}, 0.4),
        Told(2, {}, 0.5, stopped=True),  # its mean is of the part that it saw
        Told(3, {}, 0.9, violation=0.1),  # its score does not count as long as it is out of bounds
        Told(4, {}, 0.9, violation=0.2),
        Told(5, {}, None),
    ]
    assert ranked(best_first[::-1]) == best_first


MIXED = mixed()
TIED = mixed(
    method="task_arithmetic",
    parameters={"weight": {"low": 0, "high": 1.2, "start": 0.2}},
    constraints=["weight/letters + weight/numerals <= 0.8"],
)


def planted(space: Space, number: int, params: Any, objectives: int) -> Told:
    """Best with dare_ties, weights of .7 and densities of .3; what a method does not have makes no difference."""
    axes = [axis for axis in space.stages[0].active(params) if axis.kind == "float"]
    aim = {"weight": 0.7, "density": 0.3}
    lost = sum((axis.unit(params[axis.name]) - aim[axis.parameter]) ** 2 for axis in axes) / len(axes)
    score = float(params.get("method") == "dare_ties") * 0.2 - lost
    items = {f"i{k}": float(score > k / 40 - 0.2) for k in range(9)}
    return Told(number, params, score, (score, -score) if objectives > 1 else (), items=items)


def test_what_makes_no_difference_at_a_point_moves_nothing() -> None:
    """catcma, told a cohort of a method without densities: theirs stay, and the weights follow."""
    rule = MIXED.stages[0]
    dense = {**rule.start(), "method": "ties"} | {n: 0.875 for n in rule.by_name if n.startswith("density")}
    sampler = make_sampler("catcma", Setup(MIXED, seed=1), {}, origin="c.yml")
    sampler.tell_start([Told(0, dense, 1.0)])
    for cohort in range(3):
        points = [
            rule.canonical({**dense, "method": "task_arithmetic"} | {n: 1.125 for n in dense if n.startswith("weight")})
            for _ in range(rule.population)
        ]
        sampler.tell(0, [Told(cohort * 12 + n, point, 0.0) for n, point in enumerate(points)])
    mean = sampler.means()[0][-1]
    told = {name.partition("/")[0]: {mean[n] for n in mean if n.startswith(name)} for name in ("density", "weight")}
    assert told == {"density": {0.875}, "weight": {1.125}}


@pytest.mark.parametrize(
    ("name", "space"),
    [
        pytest.param(name, space, id=f"{name}-{kind}")
        for name, row in TABLE.items()
        for kind, space in (("mixed", MIXED), ("constrained", TIED))
        if name != "gp" and (row.categories or space is TIED)
    ],
)
def test_points_are_canonical_and_allowed_and_a_replay_proposes_the_same(name: str, space: Space) -> None:
    facts = Setup(space, seed=2, objectives=TABLE[name].objectives[0])
    live, replayed = (make_sampler(name, facts, {}, origin="c.yml") for _ in range(2))
    results: list[Told] = []
    for number in range(24):
        params = live.ask(0, number)
        assert space.stages[0].canonical(params) == params
        assert space.violation(0, params) == 0
        live.enter(0, number, params)
        replayed.enter(0, number, params)
        results.append(planted(space, number, params, facts.objectives))
        size = 12 if live.by_cohort else 1
        for sampler in (live, replayed):
            if len(results) % size == 0:
                sampler.tell(0, results[-size:])
    assert replayed.ask(0, 24) == live.ask(0, 24)


@pytest.mark.parametrize("name", ["catcma", "tpe"])
def test_a_planted_method_is_found_with_the_settings_that_only_it_has(name: str) -> None:
    sampler = make_sampler(name, Setup(MIXED, seed=3), {}, origin="c.yml")
    results: list[Told] = []
    for number in range(180 if sampler.by_cohort else 60):
        params = sampler.ask(0, number)
        sampler.enter(0, number, params)
        results.append(planted(MIXED, number, params, 1))
        size = 12 if sampler.by_cohort else 1
        if len(results) % size == 0:
            sampler.tell(0, results[-size:])
    best = max(results, key=lambda result: result.score or 0.0)
    assert best.params["method"] == "dare_ties"
    assert sum(result.params["method"] == "dare_ties" for result in results[-24:]) > 12
    assert (best.score or 0.0) > 0.17
    for mean in sampler.means():
        found = planted(MIXED, 0, mean[-1], 1)
        assert (found.score or 0.0) > 0.18
