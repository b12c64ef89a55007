"""Early stopping in a whole campaign: fewer items, the same answer after a kill, and nothing in small windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from simulated import SimulatedEvaluator, make_campaign, open_simulated

from search.coordinator import Coordinator
from search.inline import run_inline, work_once
from search.results import results_of
from search.samplers.quadratic import StagedQuadratic
from search.store import schema
from search.store.blocks import BlockScores

LARGE = {
    "budget": {"candidates": 45},
    "items": {"window": {0: 15, 200: 96}, "block_size": 40, "selection": 10, "holdout": 20},
    "selection": {"top": 2, "means": 1, "soup": 0},
}


def large(**items: Any) -> Any:
    return make_campaign(**(LARGE | {"items": LARGE["items"] | items}))


def stopped(coordinator: Coordinator) -> list[Any]:
    return [row for row in coordinator.run.store.rows(schema.ASSESSMENTS) if row["state"] == "stopped"]


def table(coordinator: Coordinator) -> list[Any]:
    """What was decided: candidates and what came of them, whichever lease scored them."""
    store = coordinator.run.store
    return [[dict(row) for row in store.rows(name)] for name in (schema.CANDIDATES, schema.COHORTS, schema.ASSESSMENTS)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Coordinator:
    coordinator = open_simulated(tmp_path_factory.mktemp("run"), large())
    run_inline(coordinator, SimulatedEvaluator())
    return coordinator


def test_losers_are_stopped_after_a_rung_and_the_budget_gets_the_rest_back(whole: Coordinator) -> None:
    assert len(stopped(whole)) >= 3
    assert {row["items"] for row in stopped(whole)} <= {12, 24, 48}
    state = whole._desk.live.state
    search = {row["item"] for row in whole.run.store.rows(schema.ITEMS, split="search")}
    scored = [row for row in whole.run.store.rows(schema.ITEM_SCORES) if row["item"] in search]
    assert state.spent == len(scored) < sum(len(cohort.members) * cohort.size for cohort in state.cohorts)


def test_stopped_candidates_rank_behind_complete_ones_and_are_not_nominated(whole: Coordinator) -> None:
    found = whole.run.store.find("simulated")
    assert found is not None
    rows = results_of(whole.run.store, found).candidates
    losers = [row for row in rows if row.stopped_after is not None]
    assert losers
    assert all(row.estimate is None and row.selection_score is None for row in losers)
    assert all(row.stage for row in losers)  # no baseline among them


def test_a_restart_tells_the_sampler_what_it_was_told_whatever_others_have_scored_since(tmp_path: Path) -> None:
    first = open_simulated(tmp_path, large())
    while not (losers := [row["number"] for row in stopped(first) if told(first, row["number"])]):
        assert work_once(first, SimulatedEvaluator(), worker="w") is None
    known, run = first.live.sampler, first.run
    assert isinstance(known, StagedQuadratic)
    candidate = first.live.state.candidates[losers[0]]
    cohort = first.live.state.cohorts[candidate.cohort or 0]
    met = first._desk.board.scores[candidate.recipe_hash]
    rest = [item for item in run.pools.window(cohort.start, cohort.size) if item not in met]
    others = BlockScores.of(candidate.recipe_hash, {run.pools.score_key_of[i]: (i, 1.0) for i in rest}, lease="other")
    with run.store.transaction() as transaction:
        transaction.add_scores([others])
    first.close()
    again = open_simulated(tmp_path, large(), resume=True).live.sampler
    assert isinstance(again, StagedQuadratic)
    assert rest
    assert [stage.items for stage in again._known] == [stage.items for stage in known._known]
    assert [stage.scores for stage in again._known] == [stage.scores for stage in known._known]


def told(coordinator: Coordinator, number: int) -> bool:
    """Whether the cohort of a candidate was told to the sampler."""
    state = coordinator.live.state
    return state.cohorts[state.candidates[number].cohort or 0].told


@pytest.mark.parametrize("every", [1, 7])
def test_a_look_that_was_passed_is_not_held_again_after_a_restart(
    every: int, whole: Coordinator, tmp_path: Path
) -> None:
    evaluator, killed = SimulatedEvaluator(), open_simulated(tmp_path, large())
    steps = 0
    while work_once(killed, evaluator, worker="w") is None:
        steps += 1
        if steps % every == 0 and len(stopped(killed)) < 3:
            killed.run.store.close()  # as a kill leaves it
            killed = open_simulated(tmp_path, large(), resume=True)
    assert table(killed) == table(whole)


@pytest.mark.parametrize("items", [{"early_stopping": False}, {"looks_from": 97}, {"looks": []}])
def test_it_can_be_switched_off_and_small_windows_have_no_looks(items: dict[str, Any], tmp_path: Path) -> None:
    coordinator = open_simulated(tmp_path, large(**items))
    evaluator = SimulatedEvaluator()
    while coordinator.status().phase == "search":
        assert work_once(coordinator, evaluator, worker="w") is None
    assert {row["state"] for row in coordinator.run.store.rows(schema.ASSESSMENTS)} == {"scored", "open"}
