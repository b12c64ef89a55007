"""What candidates took, counted from the rows: every paid item is somebody's, and every failure is there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from simulated import SimulatedEvaluator, make_campaign, open_simulated

from search.effort import efforts_of
from search.inline import run_inline
from search.pools import make_pools, window_items
from search.ports import BlockResult, Failed, Finished, Wait, Work
from search.report.losses import failures, quarantined, savings
from search.results import Results, results_of
from search.store import schema

SMALL = {
    "budget": {"items": 450},
    "items": {"window": {0: 15}, "block_size": 40, "selection": 20, "holdout": 40},
    "selection": {"top": 2, "means": 1, "soup": 0},
}


class Unlucky(SimulatedEvaluator):
    """Fails candidate 17 for good and candidate 18 in passing, the first time only."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: set[int] = set()

    def evaluate(self, work: Work) -> BlockResult | Failed:
        if work.candidate == 17 or (work.candidate == 18 and 18 not in self.failed):
            self.failed.add(work.candidate)
            return Failed(work.lease, f"no luck with {work.candidate}", retryable=True)
        return super().evaluate(work)


def results(coordinator: Any) -> Results:
    row = coordinator.run.store.find(coordinator.run.campaign.name)
    return results_of(coordinator.run.store, row)


def test_every_paid_item_belongs_to_a_candidate_and_every_failed_attempt_is_told(tmp_path: Path) -> None:
    coordinator = open_simulated(tmp_path, make_campaign(**SMALL))
    run_inline(coordinator, Unlucky())
    found = results(coordinator)
    paid: Counter[str] = Counter()
    for effort in found.efforts:
        paid[effort.split] += effort.paid
        assert effort.paid <= effort.seen <= effort.needed or effort.state == "lost"
    assert paid == found.items_spent
    assert Counter(attempt.candidate for attempt in found.attempts) == {17: 3, 18: 1}
    assert [(cause, [row.number for row in lost]) for cause, lost in failures(found)] == [("no luck with 17", [17])]
    assert quarantined(found) == []
    pools = coordinator.run.pools
    windows = {row["number"]: row for row in coordinator.run.store.rows(schema.COHORTS)}
    for effort in found.efforts:
        if effort.split == "search":
            cohort = windows[found.candidate(effort.candidate).cohort]
            assert effort.needed == len(pools.window(cohort["start"], cohort["size"]))


def test_a_candidate_that_two_evaluators_fail_is_in_quarantine(tmp_path: Path) -> None:
    coordinator, evaluator = open_simulated(tmp_path, make_campaign(**SMALL)), Unlucky()
    waiting: set[str] = set()
    while len(waiting) < 2:
        for worker in ("node-1", "node-2"):
            work = coordinator.next_work(worker)
            if isinstance(work, Wait | Finished):
                waiting.add(worker)
            else:
                coordinator.submit(worker, evaluator.evaluate(work))
                waiting.clear()
    (row,) = quarantined(results(coordinator))
    assert row.number == 17
    assert "node-1 (no luck with 17)" in str(row.failure)
    assert failures(results(coordinator)) == []


def test_a_campaign_repeated_on_a_shared_store_says_that_it_paid_nothing(tmp_path: Path) -> None:
    store = str(tmp_path / "shared.sqlite")
    first = open_simulated(tmp_path / "a", make_campaign(**SMALL, store=store))
    run_inline(first, SimulatedEvaluator())
    first.close()
    again = open_simulated(tmp_path / "b", make_campaign(**SMALL, store=store, name="again"))
    run_inline(again, SimulatedEvaluator())
    found = results(again)
    needed = sum(effort.needed for effort in found.efforts)
    repeats, hits, stopped = savings(found)
    assert sum(found.items_spent.values()) == 0
    assert repeats.items + hits.items == needed
    assert hits.candidates > 20
    assert stopped.candidates == 0


def test_a_stopped_candidate_has_seen_a_part_of_what_it_would_need() -> None:
    outcome = {"split": "search", "state": "stopped", "items": 60}
    lease = {"lease": "a", "candidate": 3, "split": "search", "taken": 10.0, "ended": 12.5}
    running = {**lease, "lease": "b", "ended": None}
    place = (3, "search")
    (effort,) = efforts_of({place: outcome}, sizes={place: 75}, leases=[lease, running], paid=Counter({"a": 55}))
    assert (effort.needed, effort.seen, effort.paid, effort.seconds) == (75, 60, 55, 2.5)


def test_windows_are_counted_as_they_are_cut() -> None:
    coordinator_pools = make_pools(make_campaign(), SimulatedEvaluator().inventory())
    for size in (1, 15, 31, 200, 1000):
        assert window_items(size, [120, 120, 120]) == len(coordinator_pools.window(45, size))
