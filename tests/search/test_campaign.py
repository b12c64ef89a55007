"""The machine as tables: which candidates, cohorts, phases and comparators follow from which results."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from search.campaign import (
    Ask,
    Cohort,
    GiveUp,
    HoldoutOpened,
    Idle,
    Judge,
    Judged,
    Lost,
    Nominate,
    Nominated,
    OpenHoldout,
    Outcome,
    Proposed,
    Resized,
    Rules,
    Scored,
    SearchEnded,
    StageRule,
    State,
    Stopped,
    Tell,
    advance,
    begin,
    outcomes,
    plan_next,
)
from search.pools import Pools

KINDS = ("base", "parent", "parent", "baseline")


def rules(**changes: Any) -> Rules:
    facts: dict[str, Any] = {
        "kinds": KINDS,
        "sobol": 2,
        "stages": (StageRule(4, quota=10), StageRule(5)),
        "window": {0: 10, 200: 20},
        "budget_items": 600,
    }
    return Rules(**(facts | changes))


@dataclass
class Driver:
    """Feeds the machine with W workers that finish in an order drawn from a seed; keeps what it decided."""

    state: State
    workers: int = 1
    seed: int = 0
    score: Callable[[int], float | None] = lambda number: number / 1000
    running: list[tuple[int, Any]] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)
    told: list[int] = field(default_factory=list)

    def feed(self, event: Any) -> None:
        self.state, tells = advance(self.state, event)
        self.told += [tell.cohort for tell in tells]

    def finish_one(self) -> None:
        rng = random.Random(f"{self.seed}/{len(self.asks)}/{len(self.running)}")
        number, split = self.running.pop(rng.randrange(len(self.running)))
        score = self.score(number)
        self.feed(Lost(number, split, "boom") if score is None else Scored(number, split, score))

    def search(self) -> None:
        """Until the machine wants nominations (or gives up)."""
        while True:
            plan = plan_next(self.state)
            if isinstance(plan, Ask) and len(self.running) < self.workers:
                self.asks.append(plan)
                self.feed(Proposed(plan.number, plan.stage, plan.origin, f"h{plan.number}", "search", plan.cohort))
                self.running.append((plan.number, "search"))
            elif self.running:
                self.finish_one()
            else:
                return


def searched(workers: int = 1, **changes: Any) -> Driver:
    driver = Driver(begin(rules(**changes)), workers=workers)
    driver.search()
    return driver


def test_baselines_come_first_then_sobol_points_in_the_same_window_then_the_sampler() -> None:
    driver = searched()
    first = driver.asks[:8]
    assert [ask.origin for ask in first] == ["baseline"] * 4 + ["sobol"] * 2 + ["sampler"] * 2
    assert [ask.stage for ask in first] == [-1] * 4 + [0] * 4
    assert {(ask.cohort.start, ask.cohort.size) for ask in first[:6]} == {(0, 10)}


def test_every_cohort_is_scored_on_the_window_after_the_last_one() -> None:
    cohorts = searched().state.cohorts
    for before, after in pairwise(cohorts):
        assert after.start == before.start + before.size


def test_without_fresh_windows_all_candidates_share_the_first_one() -> None:
    assert {cohort.start for cohort in searched(fresh=False).state.cohorts} == {0}


def test_the_window_grows_by_the_schedule_of_spent_items() -> None:
    spent = 0
    for cohort in searched().state.cohorts:
        assert cohort.size == (10 if spent < 200 else 20)
        spent += cohort.size * cohort.capacity


def test_items_that_a_window_asks_for_and_no_task_has_are_not_spent() -> None:
    cohorts = searched(pool=(3, 9)).state.cohorts  # a window of 10 has 3 + 5 items, one of 20 has 3 + 9
    for before, after in pairwise(cohorts):
        spent = sum((8 if cohort.size == 10 else 12) * cohort.capacity for cohort in cohorts[: after.number])
        assert after.size == (10 if spent < 200 else 20)
        assert after.start == before.start + before.size
    driver = searched(pool=(3, 9))
    assert 600 - 12 * 5 < driver.state.spent <= 600
    before = driver.state.spent
    cohort = Cohort(len(cohorts), 1, 5, 0, 20)
    driver.feed(Proposed(number := len(driver.state.candidates), 1, "sampler", "h", "search", cohort))
    assert driver.state.spent == before + 12
    driver.feed(Stopped(number, 0.1, items=4))
    assert driver.state.spent == before + 4


def test_windows_of_fewer_items_than_tasks_are_other_ones_too() -> None:
    tasks = {f"t{task}": tuple(f"{task}/{n}" for n in range(40)) for task in range(15)}
    cohorts = searched(pool=(40,) * 15).state.cohorts
    pools = Pools({"search": tasks, "selection": {}, "holdout": {}}, {}, 60, {})
    met = [item for cohort in cohorts for item in pools.window(cohort.start, cohort.size)]
    assert len(cohorts) > 3
    assert len(met) == len({*met})


def test_a_stage_ends_when_its_quota_is_told_and_the_next_population_is_its_own() -> None:
    state = searched().state
    assert [cohort.stage for cohort in state.cohorts[:4]] == [0, 0, 0, 1]  # 2 Sobol points and two populations of four
    assert {cohort.capacity for cohort in state.cohorts[3:]} == {5}
    assert state.told[0] == 10


@pytest.mark.parametrize("workers", [1, 3, 16, 64])
def test_the_budget_is_never_passed_and_no_cohort_is_left_half_full(workers: int) -> None:
    driver = searched(workers, budget_items=2000)
    assert driver.state.spent <= 2000
    assert driver.state.spent > 2000 - 5 * 20
    assert all(cohort.full for cohort in driver.state.cohorts)
    assert sorted(driver.told) == [cohort.number for cohort in driver.state.cohorts]


def test_a_restarted_sampler_gets_larger_cohorts_and_the_open_one_keeps_its_size() -> None:
    driver = Driver(begin(rules(stages=(StageRule(4),), budget_items=None, budget_candidates=40)))
    for _ in range(8):  # the first cohort has 6 members, and the second one 2 of 4
        plan = plan_next(driver.state)
        assert isinstance(plan, Ask)
        driver.feed(Proposed(plan.number, plan.stage, plan.origin, "h", "search", plan.cohort))
        driver.running.append((plan.number, "search"))
    driver.feed(Resized(0, 8))
    driver.search()
    capacities = [cohort.capacity for cohort in driver.state.cohorts]
    assert capacities == [6, 4, 8, 8, 8]
    assert sorted(driver.told) == [0, 1, 2, 3, 4]


def test_parents_on_selection_are_no_contenders() -> None:
    state = selected({7: 0.6, 20: 0.9})
    before = plan_next(state)
    for number in (0, 1):
        state, _ = advance(state, Nominated(number))
        state, _ = advance(state, Scored(number, "selection", 0.99))
    assert plan_next(state) == before
    state, _ = advance(searched().state, Nominated(1))
    state, _ = advance(state, Scored(1, "selection", 0.99))
    state, _ = advance(state, Nominated(20))
    state, _ = advance(state, Lost(20, "selection", "no memory"))
    assert plan_next(state) == GiveUp("no memory")


def test_values_and_violations_stay_with_the_outcome() -> None:
    state = searched().state
    state, _ = advance(state, Nominated(20))
    state, _ = advance(state, Scored(20, "selection", 0.5, (0.5, 12.0), 0.1))
    outcome = state.candidates[20].outcomes["selection"]
    assert (outcome.score, outcome.values, outcome.violation) == (0.5, (0.5, 12.0), 0.1)


def test_a_budget_of_candidates_ends_the_search_too() -> None:
    driver = searched(budget_items=None, budget_candidates=31)
    assert 31 - 5 < len(driver.state.candidates) <= 31


def test_a_quota_on_the_last_stage_ends_the_search() -> None:
    driver = searched(stages=(StageRule(4, quota=6),), budget_items=None)
    assert len(driver.state.candidates) == 4 + 2 + 4
    assert isinstance(plan_next(driver.state), Nominate)


@pytest.mark.parametrize("workers", [2, 16, 256])
def test_asking_never_waits_while_there_is_budget(workers: int) -> None:
    driver = Driver(begin(rules(budget_items=100_000, window={0: 10})), workers=workers)
    for _ in range(workers):
        plan = plan_next(driver.state)
        assert isinstance(plan, Ask)
        driver.feed(Proposed(plan.number, plan.stage, plan.origin, "h", "search", plan.cohort))


def test_cohorts_are_told_in_the_order_in_which_they_complete() -> None:
    state = begin(rules(stages=(StageRule(2),), kinds=("base",), sobol=1))
    for _ in range(6):
        plan = plan_next(state)
        assert isinstance(plan, Ask)
        state, _ = advance(state, Proposed(plan.number, plan.stage, plan.origin, "h", "search", plan.cohort))
    told = []
    for number in (4, 2, 5, 0, 3, 1):
        state, tells = advance(state, Scored(number, "search", 0.5))
        told += tells
    assert told == [Tell(2), Tell(1), Tell(0)]


def test_256_workers_use_every_result() -> None:
    driver = searched(256, budget_items=60_000, window={0: 10}, stages=(StageRule(6, quota=36), StageRule(13)))
    used = sum(len(driver.state.cohorts[number].members) for number in driver.told)
    assert len(driver.state.candidates) > 4000
    assert used == len(driver.state.candidates)


def test_lost_candidates_complete_their_cohort() -> None:
    driver = Driver(begin(rules()), score=lambda number: None if number % 3 == 0 else 0.5)
    driver.search()
    assert sorted(driver.told) == [cohort.number for cohort in driver.state.cohorts]
    assert isinstance(plan_next(driver.state), Nominate)


def test_a_campaign_in_which_nothing_can_be_scored_gives_up_with_the_first_cause() -> None:
    driver = Driver(begin(rules()), score=lambda number: None)
    driver.search()
    assert plan_next(driver.state) == GiveUp("boom")
    assert len(driver.asks) == 6  # the baselines and Sobol points, no more


def test_one_lost_cohort_is_bad_luck_and_two_are_the_end() -> None:
    driver = Driver(begin(rules()), score=lambda number: 0.5 if number < 10 else None)
    driver.search()
    assert plan_next(driver.state) == GiveUp("boom")
    assert len(driver.asks) == 6 + 4 + 4 + 5


def test_when_time_is_up_nothing_new_starts_and_running_work_is_awaited() -> None:
    driver = Driver(begin(rules()), workers=3)
    for _ in range(9):
        plan = plan_next(driver.state)
        assert isinstance(plan, Ask)
        driver.feed(Proposed(plan.number, plan.stage, plan.origin, "h", "search", plan.cohort))
        driver.running.append((plan.number, "search"))
    driver.feed(SearchEnded("hours"))
    assert isinstance(plan_next(driver.state), Idle)
    while driver.running:
        driver.finish_one()
    assert isinstance(plan_next(driver.state), Nominate)


def selected(scores: dict[int, float], *, hashes: dict[int, str] | None = None, **changes: Any) -> State:
    """The state after selection; candidates of the search keep their numbers, new ones are appended as means."""
    state = searched(**changes).state
    for number, score in scores.items():
        if number < len(state.candidates):
            state, _ = advance(state, Nominated(number))
        else:
            recipe_hash = (hashes or {}).get(number, f"h{number}")
            stage = len(state.rules.stages) - 1
            state, _ = advance(state, Proposed(number, stage, "mean", recipe_hash, "selection"))
        state, _ = advance(state, Scored(number, "selection", score))
    return state


def size(**changes: Any) -> int:
    return len(searched(**changes).state.candidates)


def test_the_best_on_selection_meets_base_parents_baselines_and_the_best_global_candidate() -> None:
    new = size()
    plan = plan_next(selected({7: 0.6, 8: 0.7, 20: 0.65, new: 0.9}))
    assert plan == OpenHoldout(
        ((new, "winner"), (0, "base"), (1, "parent"), (2, "parent"), (3, "baseline"), (8, "best global"))
    )


def test_a_tie_on_selection_goes_to_the_lower_number() -> None:
    plan = plan_next(selected({7: 0.6, 20: 0.9, 21: 0.9}))
    assert isinstance(plan, OpenHoldout)
    assert plan.entrants[0] == (20, "winner")


def test_a_winner_that_is_the_best_global_candidate_is_not_compared_with_itself() -> None:
    plan = plan_next(selected({7: 0.95, 20: 0.9}))
    assert isinstance(plan, OpenHoldout)
    assert plan.entrants[0] == (7, "winner")
    assert "best global" not in [reason for _, reason in plan.entrants]


def test_a_winner_with_the_recipe_of_the_best_global_candidate_counts_as_that_candidate() -> None:
    new = size()
    plan = plan_next(selected({7: 0.9, new: 0.95}, hashes={new: "h7"}))
    assert isinstance(plan, OpenHoldout)
    assert "best global" not in [reason for _, reason in plan.entrants]


def test_with_one_stage_there_is_no_global_comparator() -> None:
    plan = plan_next(selected({6: 0.9}, stages=(StageRule(4),)))
    assert isinstance(plan, OpenHoldout)
    assert [reason for _, reason in plan.entrants] == ["winner", "base", "parent", "parent", "baseline"]


@pytest.mark.parametrize(
    ("groups", "reasons"),
    [(("parents",), ["parent", "parent"]), (("base", "baselines"), ["base", "baseline"]), ((), [])],
)
def test_only_the_comparator_groups_asked_for_are_met(groups: Any, reasons: list[str]) -> None:
    plan = plan_next(selected({20: 0.9}, comparators=groups))
    assert isinstance(plan, OpenHoldout)
    assert [reason for _, reason in plan.entrants[1:]] == reasons


def test_a_baseline_that_could_not_be_scored_is_no_comparator() -> None:
    driver = Driver(begin(rules()), score=lambda number: None if number == 3 else 0.5)
    driver.search()
    state, _ = advance(driver.state, Nominated(20))
    state, _ = advance(state, Scored(20, "selection", 0.9))
    plan = plan_next(state)
    assert isinstance(plan, OpenHoldout)
    assert 3 not in [number for number, _ in plan.entrants]


def test_nominees_that_are_all_lost_end_the_campaign() -> None:
    state, _ = advance(searched().state, Nominated(20))
    state, _ = advance(state, Lost(20, "selection", "no memory"))
    assert plan_next(state) == GiveUp("no memory")


def test_the_holdout_is_scored_once_and_then_judged() -> None:
    state = selected({20: 0.9})
    plan = plan_next(state)
    assert isinstance(plan, OpenHoldout)
    state, _ = advance(state, HoldoutOpened(plan.entrants))
    assert isinstance(plan_next(state), Idle)
    for number, _ in plan.entrants:
        state, _ = advance(state, Scored(number, "holdout", 0.5))
    assert plan_next(state) == Judge()
    state, _ = advance(state, Judged())
    assert plan_next(state) is None


def test_a_second_result_of_the_same_candidate_changes_nothing() -> None:
    state = searched().state
    again, tells = advance(state, Scored(5, "search", 0.99))
    assert again == state
    assert tells == ()


def test_old_states_are_never_changed() -> None:
    driver = Driver(begin(rules()))
    before = driver.state
    driver.search()
    assert before == begin(rules())
    assert all(outcome != Outcome() for _, outcome in outcomes(driver.state, "search"))
