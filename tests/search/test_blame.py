"""Whose fault a failure is: candidates are quarantined, workers cordoned, and those that go away blamed for nothing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from simulated import Clock, SimulatedEvaluator, make_campaign, open_simulated

from search.blame import NOBODY, Blame, node_of
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
    assert blame.cordon() == NOBODY


def test_a_worker_that_fails_three_candidates_which_pass_elsewhere_is_cordoned() -> None:
    blame = Blame()
    for number in range(3):
        assert blame.cordon() == NOBODY
        blame.fail("bad", f"r{number}", f"cause {number}")
        blame.succeed("good", f"r{number}")
    assert blame.cordon().workers == {"bad": "it failed 3 candidates that others scored, the last with: cause 2"}


def test_who_never_failed_is_not_looked_at_however_many_have_come_and_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    blame, looks = Blame(), []
    for number in range(300):
        blame.succeed(f"spot{number}-1", f"r{number}")
    blame.fail("bad-2", "r0", "x")
    alone = Blame._alone
    monkeypatch.setattr(Blame, "_alone", lambda *given, **named: (looks.append(given), alone(*given, **named))[1])
    assert blame.cordon() == NOBODY
    assert 0 < len(looks) < 10


def decisions(seed: int, *, remembered: int) -> Iterator[object]:
    """Four workers answer in turn, go and are replaced, on their node or another; all that Blame says after each."""
    chance, blame, count = random.Random(seed), Blame(), itertools.count(4)
    alive, share, recipes = ["n0-0", "n0-1", "n1-2", "solo"], chance.choice([0.3, 0.5, 0.8]), chance.choice([3, 8, 20])
    for _ in range(60):
        place, recipe = chance.randrange(4), f"r{chance.randrange(recipes)}"
        worker, number = alive[place], next(count)
        node = chance.choice([node_of(worker), f"n{number}"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("search.blame.REMEMBERED", remembered)
            blame.fail(worker, recipe, recipe) if chance.random() < share else blame.succeed(worker, recipe)
            alive[place] = chance.choice([worker, f"{node}-{number}"])
            for other in alive:
                blame.meet(other)
        avoided = [blame.to_avoid(other, {*alive} - {other}) for other in alive]
        yield blame.cordon(), avoided, blame.quarantine(recipe, alive)


def test_forgetting_who_left_changes_no_decision() -> None:
    for seed in range(30):
        assert list(decisions(seed, remembered=5)) == list(decisions(seed, remembered=10**9)), seed


def test_of_thousands_that_came_and_went_only_the_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.blame.REMEMBERED", 50)
    blame = Blame()
    blame.fail("bad-0", "r", "x")
    for number in range(1, 1000):
        blame.succeed(f"spot{number}-{number}", "r")
        blame.meet(f"node-{1000 + number}")
    assert len(blame._recent) == 1 + 50
    assert blame._members.keys() == {"bad", "node", *(f"spot{number}" for number in range(975, 1000))}
    assert len(blame._gone) == 1


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
    assert blame.cordon() == NOBODY


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
    assert coordinator.cordon() == NOBODY


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
    assert list(again.cordon().workers) == ["bad"]


def test_what_the_first_one_fails_is_kept_for_those_who_are_expected(tmp_path: Path) -> None:
    coordinator = opened(tmp_path)
    coordinator.expect(["bad", "late"])
    for _ in range(3):
        work = coordinator.next_work("bad")
        assert isinstance(work, Work)
        coordinator.submit("bad", Failed(work.lease, "CUDA error", retryable=False))
    assert isinstance(coordinator.next_work("bad"), Wait)  # three are enough until somebody else has tried
    crew(coordinator, ("late", "bad"), lambda worker, work: (
        Failed(work.lease, "CUDA error", retryable=False) if worker == "bad" else None
    ))  # fmt: skip
    assert not [row for row in results(coordinator).candidates if row.failure]
    assert list(coordinator.cordon().workers) == ["bad"]


def test_what_somebody_fails_who_is_alone_after_all_is_lost(tmp_path: Path) -> None:
    coordinator = opened(tmp_path)
    coordinator.expect(["w", "never ready"])
    first = coordinator.next_work("w")
    assert isinstance(first, Work)
    coordinator.submit("w", Failed(first.lease, "no good", retryable=False))
    coordinator.expect(["w"])
    attempts: list[int] = []

    def fail_the_first(worker: str, work: Work) -> Failed | None:
        if (work.candidate, work.split) != (first.candidate, "search"):
            return None
        attempts.append(work.attempt)
        return Failed(work.lease, "no good", retryable=False)

    crew(coordinator, ("w",), fail_the_first)
    assert attempts == [2]


# ---------------------------------------------------------------------------------------------------------------- nodes


def test_a_node_whose_workers_fail_what_other_nodes_score_is_cordoned_and_one_bad_worker_of_a_good_node_alone() -> None:
    blame = Blame()
    for number, worker in enumerate(("gpu1-1", "gpu1-2", "gpu2-5", "gpu2-5", "gpu1-1", "gpu2-5")):
        assert blame.cordon() == NOBODY or number == 5
        blame.succeed("gpu2-6", "scored by a good worker of the second node")
        blame.fail(worker, f"r{number}", f"cause {number}")
        blame.succeed("gpu3-7", f"r{number}")
    why = "failed 3 candidates that others scored, the last with: cause"
    assert blame.cordon().nodes == {"gpu1": f"its evaluators {why} 4"}
    assert blame.cordon().workers == {"gpu2-5": f"it {why} 5"}
    assert [blame.cordon().holds(worker) for worker in ("gpu1-9", "gpu2-6", "gpu2-5")] == [True, False, True]
    assert str(blame.cordon()) == "node gpu1, gpu2-5"


def test_a_node_is_cordoned_for_what_other_nodes_score_and_not_for_what_its_own_workers_do() -> None:
    blame = Blame()
    for number in range(3):
        blame.fail("gpu1-1", f"r{number}", "x")
        blame.succeed("gpu1-2", f"r{number}")
    assert list(blame.cordon().workers) == ["gpu1-1"]
    assert not blame.cordon().nodes


def test_the_only_worker_of_a_node_stands_for_it() -> None:
    blame = Blame()
    for number in range(3):
        blame.fail("gpu1-1", f"r{number}", "x")
        blame.succeed("gpu2-2", f"r{number}")
    assert list(blame.cordon().nodes) == ["gpu1"]


def test_workers_of_one_node_do_not_quarantine_a_candidate_while_another_node_could_try_it() -> None:
    blame = Blame()
    blame.fail("gpu1-1", "r", "x")
    assert blame.to_avoid("gpu1-2", {"gpu1-1"}) == set()
    assert blame.to_avoid("gpu1-2", {"gpu1-1", "gpu2-3"}) == {"r"}
    assert blame.to_avoid("gpu1-1", {"gpu1-2"}) == {"r"}
    assert blame.to_avoid("gpu1-1", set()) == set()
    blame.fail("gpu1-2", "r", "y")
    assert blame.quarantine("r", {"gpu1-1", "gpu2-3"}) is None
    assert blame.quarantine("r", {"gpu1-1"}) == "quarantined: it failed on gpu1-1 (x) and on gpu1-2 (y)"
    blame.fail("gpu2-3", "r", "z")
    assert blame.quarantine("r", {"gpu3-4"}) is not None


def test_what_fails_now_and_then_ends_no_worker() -> None:
    blame = Blame()
    for number in range(100):
        (blame.fail("gpu1-1", f"r{number}", "x") if number % 6 == 0 else blame.succeed("gpu1-1", f"r{number}"))
        blame.succeed("gpu2-2", f"r{number}")
    assert blame.cordon() == NOBODY


def test_a_worker_that_fails_at_once_does_not_use_the_search_up_before_others_have_scored_anything(
    tmp_path: Path,
) -> None:
    coordinator, evaluator = opened(tmp_path), SimulatedEvaluator()
    slow = coordinator.next_work("slow")
    assert isinstance(slow, Work)
    failed = 0
    while isinstance(work := coordinator.next_work("bad"), Work):
        coordinator.submit("bad", Failed(work.lease, "x", retryable=False))
        failed += 1
    assert (failed, work) == (3, Wait(1.0))
    for _ in range(2):
        coordinator.submit("slow", evaluator.evaluate(slow))
        slow = coordinator.next_work("slow")
        assert isinstance(slow, Work)
    assert isinstance(coordinator.next_work("bad"), Work)  # one of the three is settled


def test_a_bad_node_costs_no_candidate_and_is_named_and_forgotten_after_an_hour(tmp_path: Path) -> None:
    coordinator = opened(tmp_path)
    handed = crew(coordinator, ("a-1", "bad-2", "bad-3", "c-4"), lambda worker, work: (
        Failed(work.lease, "no space left on device", retryable=True) if worker.startswith("bad") else None
    ))  # fmt: skip
    assert len(handed["bad-2"]) + len(handed["bad-3"]) <= 6
    assert not [row for row in results(coordinator).candidates if row.failure]
    verdict = coordinator.verdict()
    assert verdict is not None
    assert any(note.startswith("node bad was cordoned: its evaluators failed ") for note in verdict.notes)
    later = Clock()
    later.time = max(row["ended"] for row in coordinator.run.store.rows(schema.LEASES)) + 60
    assert list(opened(tmp_path, resume=True, now=later).cordon().nodes) == ["bad"]
    later.time += 3600
    assert opened(tmp_path, resume=True, now=later).cordon() == NOBODY


def test_the_last_ones_left_work_on_though_they_are_cordoned(tmp_path: Path) -> None:
    coordinator = opened(tmp_path)
    clock = coordinator._services.now
    assert isinstance(clock, Clock)
    for number in range(3):
        coordinator._desk.blame.fail("bad", f"r{number}", "x")
        coordinator._desk.blame.succeed("good", f"r{number}")
    assert isinstance(coordinator.next_work("good"), Work)
    assert isinstance(coordinator.next_work("bad"), Wait)
    clock.time += 61
    assert isinstance(coordinator.next_work("bad"), Work)


def test_a_cordoned_worker_waits_and_the_status_names_it(tmp_path: Path) -> None:
    coordinator = opened(tmp_path)
    for number in range(3):
        coordinator._desk.blame.fail("bad", f"r{number}", "x")
        coordinator._desk.blame.succeed("good", f"r{number}")
    assert isinstance(coordinator.next_work("good"), Work)
    assert coordinator.next_work("bad") == Wait(30.0)
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
    assert coordinator.cordon() == NOBODY
