"""A whole campaign over a formula: the same whatever is killed, lost, repeated or run by many."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from simulated import (
    Clock,
    Landscape,
    SimulatedEvaluator,
    hash_recipe,
    make_campaign,
    make_inventory,
    open_simulated,
    resolved_weights,
)

from engine.errors import EvaluationError, InputsChanged, MergefleetError, OutputExists, StaleEpoch
from search.coordinator import Coordinator
from search.evaluators.audit import read_attempts
from search.inline import run_inline, work_once
from search.judging.verdicts import verdict_to_dict
from search.ports import BlockResult, Failed, Finished, Wait, Work
from search.results import Results, results_of
from search.store import schema

SMALL = {
    "budget": {"items": 900},
    "items": {"window": {0: 15}, "block_size": 40, "selection": 20, "holdout": 40},
    "selection": {"top": 2, "means": 2, "soup": 3},
}


def small(**changes: Any) -> Any:
    return make_campaign(**(SMALL | changes))


def rows(coordinator: Coordinator) -> str:
    """Everything a campaign decided and measured, without times, leases and attempts."""
    store = coordinator.run.store
    tables: list[Any] = [store.rows(table) for table in (schema.CANDIDATES, schema.COHORTS, schema.ASSESSMENTS)]
    scores = [{k: v for k, v in row.items() if k != "lease"} for row in store.rows(schema.ITEM_SCORES)]
    verdict = coordinator.verdict()
    assert verdict is not None
    return json.dumps([*tables, scores, verdict_to_dict(verdict)], sort_keys=True)


def finished(folder: Path, campaign: Any = None, **services: Any) -> Coordinator:
    coordinator = open_simulated(folder, campaign or small(), **services)
    run_inline(coordinator, SimulatedEvaluator())
    return coordinator


def results(coordinator: Coordinator) -> Results:
    found = coordinator.run.store.find("simulated")
    assert found is not None
    return results_of(coordinator.run.store, found)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Coordinator:
    return finished(tmp_path_factory.mktemp("run"))


# ------------------------------------------------------------------------------------------------------ a good campaign


def test_the_winner_beats_every_parent_baseline_and_the_best_global_candidate(tmp_path: Path) -> None:
    coordinator = finished(tmp_path, make_campaign())
    verdict = coordinator.verdict()
    assert verdict is not None
    assert verdict.significant
    labels = [comparison.label for comparison in verdict.comparisons]
    assert labels[:4] == ["base", "parent letters", "parent numerals", "parent plurals"]
    assert len(labels) == 13  # base, 3 parents, uniform, 5 λ, ties, dare_ties, and the best global candidate
    truth = Landscape().truth
    recipes = {row.number: row.recipe for row in results(coordinator).candidates}
    best_baseline = max(truth(recipes[number]) for number in range(12))
    assert truth(recipes[verdict.winner]) > best_baseline + 0.03


def test_two_runs_with_one_seed_are_equal_row_by_row(uninterrupted: Coordinator, tmp_path: Path) -> None:
    assert rows(finished(tmp_path)) == rows(uninterrupted)


def test_another_seed_gives_other_candidates(uninterrupted: Coordinator, tmp_path: Path) -> None:
    assert rows(finished(tmp_path, small(seed=2))) != rows(uninterrupted)


def test_the_ledger_names_everybody_who_met_the_holdout_and_nobody_else_did(uninterrupted: Coordinator) -> None:
    found = results(uninterrupted)
    entered = {entry.candidate for entry in found.ledger}
    assert {row.number for row in found.candidates if row.holdout_score is not None} == entered
    hashes = {found.candidate(number).recipe_hash for number in entered}
    holdout = {row["item"] for row in uninterrupted.run.store.rows(schema.ITEMS, split="holdout")}
    scored = {row["recipe_hash"] for row in uninterrupted.run.store.rows(schema.ITEM_SCORES) if row["item"] in holdout}
    assert scored == hashes
    assert [entry.reason for entry in found.ledger].count("winner") == 1


def test_the_candidates_of_a_cohort_are_scored_on_the_same_items_and_cohorts_on_different_ones(tmp_path: Path) -> None:
    coordinator, evaluator = open_simulated(tmp_path, small()), SimulatedEvaluator()
    run_inline(coordinator, evaluator)
    search = {row["item"] for row in coordinator.run.store.rows(schema.ITEMS, split="search")}
    by_candidate: dict[int, set[str]] = {}
    for number, item in evaluator.seen:
        if item in search:
            by_candidate.setdefault(number, set()).add(item)
    windows: dict[int, set[frozenset[str]]] = {}
    for row in coordinator.run.store.rows(schema.CANDIDATES):
        if row["number"] in by_candidate:
            windows.setdefault(row["cohort"], set()).add(frozenset(by_candidate[row["number"]]))
    assert all(len(found) == 1 for found in windows.values())
    assert len(set.union(*windows.values())) == len(windows)


def test_blocks_of_the_holdout_are_the_same_for_every_candidate(tmp_path: Path) -> None:
    coordinator, blocks = open_simulated(tmp_path, small()), Counter[tuple[int, tuple[str, ...]]]()
    evaluator = SimulatedEvaluator()
    while not isinstance(work := coordinator.next_work("w"), Finished):
        assert isinstance(work, Work)
        if work.split == "holdout":
            blocks[work.block, work.items] += 1
        coordinator.submit("w", evaluator.evaluate(work))
    assert [block for block, _ in blocks] == [0, 1, 2]
    assert len(set(blocks.values())) == 1


# ---------------------------------------------------------------------------------------------------- kills and resume


@pytest.mark.parametrize("every", [3, 10, 25])
def test_a_campaign_killed_at_every_kth_unit_has_the_same_rows_in_the_end(
    every: int, uninterrupted: Coordinator, tmp_path: Path
) -> None:
    """Killed right after taking work: the memory is gone, the rows stay; some kills hit between submit and ask."""
    rng, evaluator, audit = random.Random(every), SimulatedEvaluator(), tmp_path / "audit.jsonl"
    evaluator.audit = audit
    kills, done = 0, False
    while not done:
        coordinator = open_simulated(tmp_path, small(), resume=True)
        for _ in range(rng.randint(1, 2 * every)):
            work = coordinator.next_work("w")
            if isinstance(work, Finished):
                done = True
                break
            assert isinstance(work, Work)
            coordinator.submit("w", evaluator.evaluate(work))
        else:
            work = coordinator.next_work("w")  # taken, never answered
            if isinstance(work, Work):
                evaluator.evaluate(work)
            kills += 1
            coordinator.run.store.close()
    assert kills > 2
    assert rows(coordinator) == rows(uninterrupted)
    attempts = Counter((line["candidate"], line["split"], line["item"]) for line in read_attempts(audit))
    extra = sum(count - 1 for count in attempts.values())
    assert extra <= kills * 40
    store = coordinator.run.store
    assert len(attempts) == len(store.rows(schema.ITEM_SCORES))
    assert coordinator.status().epoch == kills + 1


def test_no_item_is_attempted_again_after_its_score_was_committed(tmp_path: Path) -> None:
    seen: set[tuple[str, str]] = set()
    for epoch in range(1, 30):
        coordinator, evaluator = open_simulated(tmp_path, small(), resume=True), SimulatedEvaluator()
        for _ in range(7):
            work = coordinator.next_work("w")
            if not isinstance(work, Work):
                return
            assert work.epoch == epoch
            assert not seen & {(work.recipe_hash, item) for item in work.items}
            coordinator.submit("w", evaluator.evaluate(work))
            seen |= {(work.recipe_hash, item) for item in work.items}
        coordinator.next_work("w")
        coordinator.run.store.close()


def test_a_coordinator_that_lost_its_campaign_answers_nothing_more(tmp_path: Path) -> None:
    old = open_simulated(tmp_path, small())
    work = old.next_work("w")
    assert isinstance(work, Work)
    new = open_simulated(tmp_path, small(), resume=True)
    with pytest.raises(StaleEpoch):
        old.submit("w", SimulatedEvaluator().evaluate(work))
    with pytest.raises(StaleEpoch):
        old.next_work("w")
    old.run.store.close()
    assert isinstance(new.next_work("w"), Work)


def test_a_result_of_the_predecessors_lease_is_taken_by_the_successor(tmp_path: Path) -> None:
    old = open_simulated(tmp_path, small())
    work = old.next_work("w")
    assert isinstance(work, Work)
    new = open_simulated(tmp_path, small(), resume=True)
    new.submit("w", SimulatedEvaluator().evaluate(work))
    again = new.next_work("w")
    assert isinstance(again, Work)
    assert again.candidate == work.candidate + 1


def test_a_finished_campaign_stays_finished(tmp_path: Path) -> None:
    finished(tmp_path).close()
    again = open_simulated(tmp_path, small(), resume=True)
    assert again.next_work("w") == Finished("done")
    assert again.verdict() is not None
    assert again.status().phase == "done"


def begun(folder: Path) -> Coordinator:
    """A campaign of which one block was scored."""
    coordinator = open_simulated(folder, small())
    work_once(coordinator, SimulatedEvaluator(), worker="w")
    return coordinator


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_of_which_nothing_was_ever_scored_begins_anew_with_the_changed_file(resume: bool, tmp_path: Path) -> None:
    broken = open_simulated(tmp_path, small())

    def fail(work: Work) -> Failed:
        return Failed(work.lease, "nothing works", retryable=False)

    with pytest.raises(EvaluationError, match="no candidate can be scored: nothing works"):
        run_inline(broken, SimpleNamespace(evaluate=fail))  # type: ignore[arg-type]
    broken.close()
    again = open_simulated(tmp_path, small(seed=5), resume=resume)
    run_inline(again, SimulatedEvaluator())
    fresh = open_simulated(tmp_path / "fresh", small(seed=5))
    run_inline(fresh, SimulatedEvaluator())
    assert rows(again) == rows(fresh)


def test_a_run_that_is_there_is_continued_only_on_demand(tmp_path: Path) -> None:
    begun(tmp_path).close()
    with pytest.raises(OutputExists, match="--resume"):
        open_simulated(tmp_path, small())


def test_a_changed_campaign_is_not_resumed_but_a_longer_budget_is(tmp_path: Path) -> None:
    begun(tmp_path).close()
    with pytest.raises(InputsChanged, match="seed: 1 then, 5 now"):
        open_simulated(tmp_path, small(seed=5), resume=True)
    open_simulated(tmp_path, small(budget={"items": 1200}), resume=True).close()


def test_once_the_holdout_was_opened_the_budget_is_fixed_too(tmp_path: Path) -> None:
    finished(tmp_path).close()
    with pytest.raises(InputsChanged, match=r"budget\.items: 900 then, 1200 now\. The holdout was opened, and"):
        open_simulated(tmp_path, small(budget={"items": 1200}), resume=True)


def test_a_pause_hands_out_nothing_takes_what_runs_and_goes_on_later(
    uninterrupted: Coordinator, tmp_path: Path
) -> None:
    coordinator, evaluator = open_simulated(tmp_path, small()), SimulatedEvaluator()
    for _ in range(20):
        work_once(coordinator, evaluator, worker="w")
    running = coordinator.next_work("w")
    assert isinstance(running, Work)
    coordinator.pause()
    assert coordinator.next_work("w") == Finished("paused")
    coordinator.submit("w", evaluator.evaluate(running))
    assert coordinator.status().paused
    coordinator.close()
    again = open_simulated(tmp_path, small(), resume=True)
    run_inline(again, evaluator)
    assert rows(again) == rows(uninterrupted)


# ------------------------------------------------------------------------------------------------------------- failures


class Faulty(SimulatedEvaluator):
    """An evaluator that may answer otherwise than asked."""

    def __init__(self, fault: Callable[[Work, BlockResult], BlockResult | Failed]) -> None:
        super().__init__()
        self.fault = fault

    def evaluate(self, work: Work) -> BlockResult | Failed:
        result = super().evaluate(work)
        assert isinstance(result, BlockResult)
        return self.fault(work, result)


def with_score(result: BlockResult, score: float) -> BlockResult:
    first = next(iter(result.scores))
    return BlockResult(result.lease, result.recipe_hash, result.weights_digest, {**result.scores, first: score})


def with_tokens(result: BlockResult, values: dict[str, float]) -> BlockResult:
    return replace(result, measures={"tokens": values})


FAULTS: dict[str, Callable[[Work, BlockResult], BlockResult | Failed]] = {
    "no numbers": lambda work, result: with_score(result, float("nan")),
    "no  numbers": lambda work, result: with_score(result, float("inf")),
    "no numbers within ±1e+18": lambda work, result: with_score(result, 1e19),
    "no numbers ": lambda work, result: with_score(result, None),  # type: ignore[arg-type]
    "NaN in the logits": lambda work, result: Failed(work.lease, "NaN in the logits", retryable=False),
    "asked for": lambda work, result: BlockResult(result.lease, "0" * 64, "w", result.scores),
    "items": lambda work, result: BlockResult(result.lease, result.recipe_hash, "w", {}),
    "tokens: 15 values are no numbers within ±1e+18": lambda work, r: replace(
        r, measures={"tokens": dict.fromkeys(work.items, math.nan)}
    ),
    "were not scored": lambda work, r: replace(r, measures={"tokens": {"elsewhere": 1.0}}),
}


@pytest.mark.parametrize("cause", FAULTS)
def test_a_candidate_that_cannot_be_scored_is_recorded_as_failed_and_the_campaign_goes_on(
    cause: str, tmp_path: Path
) -> None:
    coordinator = open_simulated(tmp_path, small())
    bad = {5, 14, 30}
    evaluator = Faulty(lambda work, result: FAULTS[cause](work, result) if work.candidate in bad else result)
    assert run_inline(coordinator, evaluator) is not None
    found = results(coordinator)
    failed = {row.number: row.failure for row in found.candidates if row.failure}
    assert set(failed) == bad
    assert all(cause.split("  ")[-1].strip() in str(text) for text in failed.values())
    assert all(found.candidate(number).search_score is None for number in bad)
    scores = {row["recipe_hash"] for row in coordinator.run.store.rows(schema.ITEM_SCORES)}
    assert not scores & {found.candidate(number).recipe_hash for number in bad}


def test_measures_are_stored_beside_the_scores_and_known_again_after_a_restart(tmp_path: Path) -> None:
    coordinator = open_simulated(tmp_path, small())
    evaluator = Faulty(lambda work, r: with_tokens(r, {item: float(len(item)) for item in work.items[::2]}))
    for _ in range(4):
        assert work_once(coordinator, evaluator, worker="w") is None
    board = coordinator._desk.board
    coordinator.close()
    again = open_simulated(tmp_path, small(), resume=True)._desk.board
    assert again.measures == board.measures
    assert again.scores == board.scores
    assert {len(by["tokens"]) for by in again.measures.values()} == {8}  # every second of 15 items


def test_a_failed_baseline_is_no_comparator_and_the_verdict_says_so(tmp_path: Path) -> None:
    coordinator = open_simulated(tmp_path, small())
    evaluator = Faulty(lambda work, r: Failed(work.lease, "bad ties", retryable=False) if work.candidate == 10 else r)
    verdict = run_inline(coordinator, evaluator)
    assert verdict is not None
    assert "ties" not in [comparison.label for comparison in verdict.comparisons]
    assert "ties is no comparator: it could not be scored (bad ties)" in verdict.notes


def lost_in(*splits: str, candidate: int) -> Faulty:
    def fault(work: Work, result: BlockResult) -> BlockResult | Failed:
        lost = work.candidate == candidate and work.split in splits
        return Failed(work.lease, f"lost in {work.split}", retryable=False) if lost else result

    return Faulty(fault)


def test_a_parent_lost_in_the_search_is_met_on_the_holdout_and_not_beaten_where_it_is_lost_again(
    tmp_path: Path,
) -> None:
    verdict = run_inline(open_simulated(tmp_path / "both", small()), lost_in("search", "holdout", candidate=1))
    assert verdict is not None
    assert verdict.unscored == ("parent letters",)
    assert not verdict.significant
    told = "parent letters could not be scored on the holdout, where it was tried twice (lost in holdout)"
    assert [note for note in verdict.notes if "parent letters" in note] == [told]
    verdict = run_inline(open_simulated(tmp_path / "search", small()), lost_in("search", candidate=1))
    assert verdict is not None
    assert "parent letters" in [comparison.label for comparison in verdict.comparisons]
    assert not verdict.unscored
    alone = small(comparators=["base"])
    verdict = run_inline(open_simulated(tmp_path / "alone", alone), lost_in("search", candidate=1))
    assert verdict is not None
    assert "parent letters is no comparator: it could not be scored (lost in search)" in verdict.notes


def test_a_search_without_one_score_says_what_most_of_it_was_lost_by(tmp_path: Path) -> None:
    def fault(work: Work, result: BlockResult) -> BlockResult | Failed:
        cause = "a rare cause" if work.candidate == 12 else "the usual cause"
        return result if work.candidate < 12 else Failed(work.lease, cause, retryable=False)

    coordinator = open_simulated(tmp_path, small(budget={"candidates": 26}))
    with pytest.raises(EvaluationError, match=r"could be scored: \d+ of \d+ were lost by: the usual cause$"):
        run_inline(coordinator, Faulty(fault))


def test_a_comparator_lost_on_the_holdout_counts_as_not_beaten(tmp_path: Path) -> None:
    coordinator = open_simulated(tmp_path, small())
    lost = Faulty(
        lambda work, r: (
            Failed(work.lease, "x", retryable=False) if (work.candidate, work.split) == (1, "holdout") else r
        )
    )
    verdict = run_inline(coordinator, lost)
    assert verdict is not None
    assert verdict.unscored == ("parent letters",)
    assert not verdict.significant
    assert "parent letters could not be scored on the holdout, where it was tried twice (x)" in verdict.notes
    tries = [row["attempt"] for row in coordinator.run.store.rows(schema.LEASES, split="holdout", candidate=1)]
    assert len(tries) == 2


@pytest.mark.parametrize("killed", [False, True])
def test_whoever_is_lost_on_the_holdout_is_tried_once_more_when_all_others_are_scored(
    uninterrupted: Coordinator, killed: bool, tmp_path: Path
) -> None:
    gone = {row["candidate"] for row in uninterrupted.run.store.rows(schema.LEDGER)}

    def fails_once(work: Work, result: BlockResult) -> BlockResult | Failed:
        lost = work.split == "holdout" and work.candidate in gone and work.candidate % 2 == 1
        gone.discard(work.candidate) if work.split == "holdout" else None
        return Failed(work.lease, "no grade", retryable=False) if lost else result

    coordinator, evaluator = open_simulated(tmp_path, small()), Faulty(fails_once)
    while not (killed and coordinator.live.state.tried_again):
        if isinstance(work_once(coordinator, evaluator, worker="inline"), Finished):
            break
    assert coordinator.run.store.rows(schema.EVENTS, kind="tried again")
    if killed:
        coordinator.abandon()
        coordinator = open_simulated(tmp_path, small(), resume=True)
        assert coordinator.live.state.tried_again
    assert run_inline(coordinator, evaluator) == uninterrupted.verdict()
    assert coordinator.status().failed == 0
    assert coordinator.run.store.rows(schema.LEDGER) == uninterrupted.run.store.rows(schema.LEDGER)


def test_a_winner_lost_on_the_holdout_is_tried_again_by_every_resume(
    uninterrupted: Coordinator, tmp_path: Path
) -> None:
    """With all others that were lost there; more often than a unit may fail."""

    def silent_judge(work: Work, result: BlockResult) -> BlockResult | Failed:
        gone = work.split == "holdout" and work.candidate != 2
        return Failed(work.lease, "no grade.", retryable=False) if gone else result

    for attempt in range(4):
        coordinator = open_simulated(tmp_path, small(), resume=attempt > 0)
        assert (coordinator.status().phase == "holdout") == (attempt > 0)
        with pytest.raises(EvaluationError, match=r"on the holdout: no grade\. No verdict yet; --resume tries"):
            run_inline(coordinator, Faulty(silent_judge))
        ledger = coordinator.run.store.rows(schema.LEDGER)
        assert len(ledger) == len(uninterrupted.run.store.rows(schema.LEDGER))
        coordinator.close()
    coordinator = open_simulated(tmp_path, small(), resume=True)
    assert run_inline(coordinator, SimulatedEvaluator()) == uninterrupted.verdict()
    assert coordinator.run.store.rows(schema.LEDGER) == ledger
    assert not coordinator.run.store.rows(schema.ASSESSMENTS, state="lost")


def test_a_passing_failure_is_retried_twice_and_leaves_no_trace_in_the_result(
    uninterrupted: Coordinator, tmp_path: Path
) -> None:
    coordinator, tries = open_simulated(tmp_path, small()), Counter[tuple[int, str, int]]()

    def shaky(work: Work, result: BlockResult) -> BlockResult | Failed:
        tries[work.candidate, work.split, work.block] += 1
        assert work.attempt == tries[work.candidate, work.split, work.block]
        return Failed(work.lease, "lost", retryable=True) if work.attempt <= 2 and work.candidate % 7 == 0 else result

    run_inline(coordinator, Faulty(shaky))
    assert rows(coordinator) == rows(uninterrupted)
    assert max(tries.values()) == 3


def test_a_recipe_that_the_engine_refuses_is_a_failed_candidate(tmp_path: Path) -> None:
    def picky(recipe: Any) -> str:
        if recipe["merge_method"] == "dare_ties":
            raise MergefleetError("no such method on this machine")
        return hash_recipe(recipe)

    coordinator = finished(tmp_path, hash_recipe=picky)
    row = next(row for row in results(coordinator).candidates if row.label == "dare_ties")
    assert row.failure == "no such method on this machine"


def test_a_campaign_in_which_nothing_works_ends_with_the_first_cause(tmp_path: Path) -> None:
    coordinator = open_simulated(tmp_path, small())
    evaluator = Faulty(lambda work, result: Failed(work.lease, "no GPU here", retryable=False))
    with pytest.raises(EvaluationError, match="no GPU here"):
        run_inline(coordinator, evaluator)


def test_weights_that_differ_under_one_recipe_hash_are_refused(tmp_path: Path) -> None:
    coordinator = open_simulated(tmp_path, small(items=SMALL["items"] | {"block_size": 5}))  # three blocks a window
    evaluator = Faulty(
        lambda work, r: BlockResult(
            r.lease, r.recipe_hash, f"{work.candidate}/{work.block * (work.candidate == 6)}", r.scores
        )
    )
    run_inline(coordinator, evaluator)
    row = results(coordinator).candidate(6)
    assert row.failure is not None
    assert "under the same recipe hash" in row.failure


# --------------------------------------------------------------------------------------------------- leases and workers


def test_an_expired_lease_goes_to_another_worker_and_the_late_answer_is_harmless(tmp_path: Path) -> None:
    clock, evaluator = Clock(), SimulatedEvaluator()
    coordinator = open_simulated(tmp_path, small(), now=clock, lease_s=30.0)
    slow = coordinator.next_work("slow")
    assert isinstance(slow, Work)
    clock.time += 31
    again = coordinator.next_work("quick")
    assert isinstance(again, Work)
    assert (again.candidate, again.items, again.attempt) == (slow.candidate, slow.items, 2)
    coordinator.submit("quick", evaluator.evaluate(again))
    coordinator.submit("slow", evaluator.evaluate(slow))
    states = [row["state"] for row in coordinator.run.store.rows(schema.LEASES)]
    assert states == ["expired", "done"]
    assert len(coordinator.run.store.rows(schema.ITEM_SCORES)) == len(slow.items)


def test_a_late_answer_that_comes_first_spares_the_second_attempt(tmp_path: Path) -> None:
    clock, evaluator = Clock(), SimulatedEvaluator()
    coordinator = open_simulated(tmp_path, small(), now=clock, lease_s=30.0)
    slow = coordinator.next_work("slow")
    assert isinstance(slow, Work)
    clock.time += 31
    other = coordinator.next_work("other")  # the expired unit
    assert isinstance(other, Work)
    coordinator.submit("other", Failed(other.lease, "gone", retryable=True))
    coordinator.submit("slow", evaluator.evaluate(slow))
    following = coordinator.next_work("other")
    assert isinstance(following, Work)
    assert following.candidate != slow.candidate


def test_a_heartbeat_keeps_a_lease(tmp_path: Path) -> None:
    clock = Clock()
    coordinator = open_simulated(tmp_path, small(), now=clock, lease_s=30.0)
    mine = coordinator.next_work("w")
    assert isinstance(mine, Work)
    for _ in range(5):
        clock.time += 20
        coordinator.heartbeat("w")
    other = coordinator.next_work("other")
    assert isinstance(other, Work)
    assert other.candidate != mine.candidate


def test_a_candidate_whose_workers_die_five_times_is_lost(tmp_path: Path) -> None:
    clock = Clock()
    coordinator = open_simulated(tmp_path, small(), now=clock, lease_s=30.0)
    for attempt in (1, 2, 3, 4, 5):
        work = coordinator.next_work(f"w{attempt}")
        assert isinstance(work, Work)
        assert (work.candidate, work.attempt) == (0, attempt)
        clock.time += 31
    following = coordinator.next_work("w")
    assert isinstance(following, Work)
    assert following.candidate == 1
    failure = results(coordinator).candidate(0).failure
    assert failure is not None
    assert "w5 was not heard of for 30 s" in failure


def crowd(coordinator: Coordinator, *, workers: int, seed: int, loss: float = 0.0) -> Counter[str]:
    """W workers of different speed on a simulated clock; each unit may be lost with its worker."""
    rng, evaluator, clock = random.Random(seed), SimulatedEvaluator(), coordinator._services.now
    assert isinstance(clock, Clock)
    busy: list[tuple[float, str, Work]] = []
    idle, counts = [f"w{n}" for n in range(workers)], Counter[str]()
    while True:
        for worker in list(idle):
            work = coordinator.next_work(worker)
            if isinstance(work, Finished):
                return counts
            if isinstance(work, Wait):
                counts["waits"] += 1
                continue
            counts[f"{work.split} units"] += 1
            idle.remove(worker)
            busy.append((clock.time + rng.lognormvariate(0, 0.35), worker, work))
        if not busy:
            clock.time += 31  # everybody who was at work is gone: their leases run out
            continue
        when, worker, work = busy.pop(min(range(len(busy)), key=lambda index: busy[index][0]))
        clock.time = max(clock.time, when)
        for _, other, _ in busy:
            coordinator.heartbeat(other)
        idle.append(worker)
        if rng.random() < loss:
            counts["lost"] += 1
            continue  # never submitted; its lease runs out
        coordinator.submit(worker, evaluator.evaluate(work))


@pytest.mark.parametrize("workers", [8, 64])
def test_many_workers_use_every_result_and_find_a_winner(workers: int, tmp_path: Path) -> None:
    coordinator = open_simulated(tmp_path, small(budget={"items": 3000}), lease_s=30.0)
    crowd(coordinator, workers=workers, seed=workers)
    state = coordinator._desk.live.state
    told = sum(len(cohort.members) for cohort in state.cohorts if cohort.told)
    searched = sum("search" in candidate.outcomes for candidate in state.candidates)
    assert told == searched > 100
    verdict = coordinator.verdict()
    assert verdict is not None
    assert verdict.score > 0.4


def test_workers_that_die_all_the_time_lose_units_but_no_item(tmp_path: Path) -> None:
    coordinator = open_simulated(tmp_path, small(), lease_s=30.0)
    counts = crowd(coordinator, workers=8, seed=1, loss=0.1)
    assert counts["lost"] > 5
    store = coordinator.run.store
    lost = {row["number"] for row in store.rows(schema.ASSESSMENTS) if row["state"] == "lost"}
    assert len(lost) <= 2  # three deaths in a row are rare
    scored = Counter(row["recipe_hash"] for row in store.rows(schema.ITEM_SCORES))
    for candidate in coordinator._desk.live.state.candidates:
        if "search" in candidate.outcomes and candidate.number not in lost:
            assert scored[candidate.recipe_hash] >= 15


# ------------------------------------------------------------------------------------------------- duplicates and nulls


def test_a_duplicate_recipe_costs_no_evaluation(tmp_path: Path) -> None:
    """Two baselines with one recipe hash, as if the engine had found their plans equal."""

    def blind(recipe: Any) -> str:
        return (
            "twins"
            if recipe["models"][0].get("parameters") in ({"weight": 0.5}, {"weight": 0.7})
            else hash_recipe(recipe)
        )

    coordinator, evaluator = open_simulated(tmp_path, small(), hash_recipe=blind), SimulatedEvaluator()
    verdict = run_inline(coordinator, evaluator)
    twins = [row for row in results(coordinator).candidates if row.recipe_hash == "twins"]
    assert [row.label for row in twins] == ["task arithmetic 0.5", "task arithmetic 0.7"]
    assert len({(row.search_score, row.holdout_score) for row in twins}) == 1
    assert not [item for number, item in evaluator.seen if number == twins[1].number]
    assert max(Counter(evaluator.seen).values()) == 1
    assert verdict is not None
    assert {"task arithmetic 0.5", "task arithmetic 0.7"} <= {comparison.label for comparison in verdict.comparisons}


class Indifferent(SimulatedEvaluator):
    """T10's null: every candidate answers each item right with the item's own probability, independently."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def evaluate(self, work: Work) -> BlockResult | Failed:
        scores = {}
        for item in work.items:
            ease = random.Random(f"{self.seed}/{item}").betavariate(2, 2)
            scores[item] = float(random.Random(f"{self.seed}/{item}/{work.recipe_hash}").random() < ease)
        return BlockResult(work.lease, work.recipe_hash, f"w{work.recipe_hash}", scores)


def test_when_nothing_is_better_the_campaign_says_so(tmp_path: Path) -> None:
    found = 0
    for seed in range(8):
        campaign = small(budget={"items": 400}, seed=seed)
        coordinator = open_simulated(tmp_path / str(seed), campaign)
        verdict = run_inline(coordinator, Indifferent(seed))
        assert verdict is not None
        found += verdict.significant
        coordinator.run.store.close()
    assert found <= 1


class Identical(SimulatedEvaluator):
    """A smoke test's null: all sources are the base, so every merge is the same model."""

    def evaluate(self, work: Work) -> BlockResult | Failed:
        scores = {item: float(sum(map(ord, item)) % 2) for item in work.items}
        return BlockResult(work.lease, work.recipe_hash, "same", scores)


def test_identical_sources_end_in_no_significant_winner(tmp_path: Path) -> None:
    verdict = run_inline(open_simulated(tmp_path, small()), Identical())
    assert verdict is not None
    assert not verdict.significant
    assert "no significant winner" in verdict.sentence
    assert all(comparison.difference == 0 for comparison in verdict.comparisons)


def test_one_recipe_hash_for_everything_is_no_crash_either(tmp_path: Path) -> None:
    coordinator = open_simulated(tmp_path, small(), hash_recipe=lambda recipe: "one")
    evaluator = Identical()
    verdict = run_inline(coordinator, evaluator)
    assert verdict is not None
    assert not verdict.significant
    assert max(Counter(item for _, item in evaluator.seen).values(), default=1) == 1


# ----------------------------------------------------------------------------------------------- time, status, contract


def test_when_the_hours_are_over_the_search_ends_and_the_end_is_replayed(tmp_path: Path) -> None:
    clock, evaluator = Clock(), SimulatedEvaluator()
    campaign = small(budget={"hours": 0.01})
    coordinator = open_simulated(tmp_path, campaign, now=clock)
    for _ in range(30):
        work_once(coordinator, evaluator, worker="w")
        clock.time += 1
    assert coordinator.status().phase == "search"
    clock.time += 10
    work_once(coordinator, evaluator, worker="w")
    assert coordinator.status().phase == "selection"
    coordinator.run.store.close()
    again = open_simulated(tmp_path, campaign, resume=True, now=clock)
    assert again.status().phase == "selection"
    assert run_inline(again, evaluator) is not None


def test_the_status_counts_up_to_the_total_of_every_phase(tmp_path: Path) -> None:
    clock, evaluator = Clock(), SimulatedEvaluator()
    coordinator = open_simulated(tmp_path, small(), now=clock)
    last: dict[str, tuple[int, int]] = {}
    while work_once(coordinator, evaluator, worker="w") is None:
        clock.time += 0.5
        status = coordinator.status()
        done, _ = last.get(status.phase, (0, 0))
        assert done <= status.items_done <= status.items_total
        last[status.phase] = (status.items_done, status.items_total)
        assert status.seconds_left is None or status.seconds_left >= 0
        assert status.workers == 1
        if status.phase == "selection" and done == 0:
            assert status.items_per_s is None  # the rate of the search says nothing of larger blocks
    assert list(last) == ["search", "selection", "holdout"]
    final = coordinator.status()
    assert (final.phase, final.seconds_left, final.best_score is not None) == ("done", 0.0, True)
    assert last["search"][1] == 900


def test_a_resumed_status_counts_what_was_done_before(tmp_path: Path) -> None:
    coordinator, evaluator = open_simulated(tmp_path, small()), SimulatedEvaluator()
    for _ in range(25):
        work_once(coordinator, evaluator, worker="w")
    before = coordinator.status()
    coordinator.close()
    after = open_simulated(tmp_path, small(), resume=True).status()
    assert (after.items_done, after.candidates, after.best_score) == (
        before.items_done,
        before.candidates,
        before.best_score,
    )
    assert after.epoch == 2


def test_every_recipe_handed_out_is_one_that_the_landscape_understands(tmp_path: Path) -> None:
    coordinator = finished(tmp_path)
    weights = [resolved_weights(row.recipe) for row in results(coordinator).candidates]
    assert all(((w >= 0) & (w <= 1.2)).all() for w in weights)
    assert make_inventory().key == coordinator.run.eval_key


def test_the_running_time_survives_a_kill_to_within_seconds(tmp_path: Path) -> None:
    clock, evaluator = Clock(), SimulatedEvaluator()
    coordinator = open_simulated(tmp_path, small(), now=clock)
    for _ in range(20):
        work_once(coordinator, evaluator, worker="w")
        clock.time += 1
    coordinator.run.store.close()  # killed
    again = open_simulated(tmp_path, small(), resume=True, now=clock)
    assert 14 <= again.run.seconds_before <= 20
    for _ in range(3):
        work_once(again, evaluator, worker="w")
        clock.time += 10
    again.close()
    assert again.run.seconds_before + 30 == open_simulated(tmp_path, small(), resume=True).run.seconds_before
