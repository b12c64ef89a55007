"""Whose fault a failure is: candidates are quarantined, workers cordoned, and those that go away blamed for nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from simulated import Clock, SimulatedEvaluator, make_campaign, open_simulated

from search.blame import Blame
from search.coordinator import Coordinator
from search.ports import BlockResult, Failed, Finished, Wait, Work
from search.results import results_of
from search.store import schema

SMALL = {
    "budget": {"items": 500},
    "items": {"window": {0: 15}, "block_size": 40, "selection": 10, "holdout": 20},
    "selection": {"top": 1, "means": 1, "soup": 0},
}
Fault = Callable[[str, Work], Failed | None]


def test_two_workers_that_fail_one_candidate_quarantine_it_with_both_causes() -> None:
    blame = Blame()
    blame.fail("a", "r", "NaN in the logits")
    blame.fail("a", "r", "again")
    assert blame.quarantine("r") is None
    blame.fail("b", "r", "out of memory")
    assert blame.quarantine("r") == "quarantined: it failed on a (NaN in the logits) and on b (out of memory)"
    assert blame.cordoned() == {}


def test_a_worker_that_fails_three_candidates_which_pass_elsewhere_is_cordoned() -> None:
    blame = Blame()
    for number in range(3):
        assert blame.cordoned() == {}
        blame.fail("bad", f"r{number}", f"cause {number}")
        blame.succeed("good", f"r{number}")
    assert blame.cordoned() == {"bad": "it failed 3 candidates that others scored, the last with: cause 2"}


def test_what_a_cordoned_worker_failed_counts_against_no_candidate() -> None:
    blame = Blame()
    for number in range(3):
        blame.fail("bad", f"r{number}", "x")
        blame.succeed("good", f"r{number}")
    blame.fail("bad", "r", "x")
    blame.fail("good", "r", "y")
    assert blame.quarantine("r") is None


def test_a_candidate_that_the_same_worker_passed_before_does_not_speak_for_others() -> None:
    blame = Blame()
    for number in range(5):
        blame.fail("w", f"r{number}", "x")
        blame.succeed("w", f"r{number}")
    assert blame.cordoned() == {}


def crew(coordinator: Coordinator, workers: tuple[str, ...], fault: Fault) -> dict[str, list[int]]:
    """These workers in turn until the end; who was handed which candidates."""
    evaluator, clock = SimulatedEvaluator(), coordinator._services.now
    assert isinstance(clock, Clock)
    handed: dict[str, list[int]] = {worker: [] for worker in workers}
    for _ in range(5000):
        for worker in workers:
            work = coordinator.next_work(worker)
            clock.time += 0.5
            if isinstance(work, Finished):
                return handed
            if isinstance(work, Work):
                handed[worker].append(work.candidate)
                result: BlockResult | Failed | None = fault(worker, work)
                coordinator.submit(worker, result or evaluator.evaluate(work))
    raise AssertionError("the campaign does not end")


def opened(folder: Path, **services: Any) -> Coordinator:
    return open_simulated(folder, make_campaign(**SMALL), **({"now": Clock(), "lease_s": 30.0} | services))


def results(coordinator: Coordinator) -> Any:
    return results_of(coordinator.run.store, coordinator.run.store.find("simulated") or {})


@pytest.mark.parametrize("retryable", [True, False])
def test_a_bad_candidate_is_tried_on_two_workers_and_a_good_fleet_stays_whole(retryable: bool, tmp_path: Path) -> None:
    coordinator = opened(tmp_path)
    handed = crew(coordinator, ("a", "b", "c"), lambda worker, work: (
        Failed(work.lease, f"NaN on {worker}", retryable=retryable) if work.candidate in (4, 20) else None
    ))  # fmt: skip
    for number in (4, 20):
        failure = results(coordinator).candidate(number).failure
        assert failure.startswith("quarantined: it failed on ")
        assert failure.count("NaN on") == 2
        assert sum(seen.count(number) for seen in handed.values()) == 2
    assert coordinator._desk.blame.cordoned() == {}


def test_a_bad_worker_gets_no_further_work_is_named_and_costs_no_candidate(tmp_path: Path) -> None:
    coordinator = opened(tmp_path)
    handed = crew(coordinator, ("a", "bad", "c"), lambda worker, work: (
        Failed(work.lease, "CUDA error: an illegal memory access", retryable=False) if worker == "bad" else None
    ))  # fmt: skip
    assert len(handed["bad"]) <= 4
    assert not [row for row in results(coordinator).candidates if row.failure]
    verdict = coordinator.verdict()
    assert verdict is not None
    assert any(note.startswith("evaluator bad was cordoned: it failed 3 candidates") for note in verdict.notes)
    again = opened(tmp_path, resume=True)  # a restart knows it, too
    assert list(again._desk.blame.cordoned()) == ["bad"]


def test_a_cordoned_worker_waits_and_the_status_names_it(tmp_path: Path) -> None:
    coordinator = opened(tmp_path)
    for number in range(3):
        coordinator._desk.blame.fail("bad", f"r{number}", "x")
        coordinator._desk.blame.succeed("good", f"r{number}")
    assert coordinator.next_work("bad") == Wait(30.0)
    assert isinstance(coordinator.next_work("good"), Work)
    assert coordinator.status().note == "cordoned: bad"
    coordinator.pause()
    assert coordinator.next_work("bad") == Finished("paused")


def test_a_lonely_worker_is_retried_as_before_and_a_sure_failure_is_not(tmp_path: Path) -> None:
    coordinator = opened(tmp_path)
    faults = {4: True, 20: False}
    handed = crew(coordinator, ("w",), lambda worker, work: (
        Failed(work.lease, "x", retryable=faults[work.candidate]) if work.candidate in faults else None
    ))  # fmt: skip
    assert handed["w"].count(4) == 3
    assert handed["w"].count(20) == 1


def test_workers_that_go_away_are_blamed_for_nothing(tmp_path: Path) -> None:
    coordinator = opened(tmp_path)
    crew(coordinator, ("a", "b", "c"), lambda worker, work: (
        Failed(work.lease, "preempted", retryable=True, blameless=True)
        if work.candidate % 5 == 0 and work.attempt <= 4 else None
    ))  # fmt: skip
    assert not [row for row in results(coordinator).candidates if row.failure]
    assert {row["state"] for row in coordinator.run.store.rows(schema.LEASES)} == {"done", "returned"}
    assert coordinator._desk.blame.cordoned() == {}
