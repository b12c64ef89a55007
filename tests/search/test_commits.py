"""When changes become rows: scores of a while in one transaction, what must not be lost at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from simulated import Clock, SimulatedEvaluator, make_campaign, open_simulated

from engine.errors import EvaluationError, StaleEpoch
from search.commits import NOTE_TIME_EVERY_S
from search.coordinator import Coordinator
from search.inline import run_inline
from search.ports import Failed, Work
from search.queue import MAX_ATTEMPTS
from search.store import schema

WORKER = "w"
TABLES = (schema.CANDIDATES, schema.COHORTS, schema.ASSESSMENTS, schema.EVENTS, schema.LEDGER)


def campaign() -> Any:
    return make_campaign(
        budget={"items": 600},
        items={"window": {0: 15}, "block_size": 40, "selection": 10, "holdout": 20},
        selection={"top": 2, "means": 1, "soup": 2},
    )


def opened(folder: Path, *, resume: bool = False, **services: Any) -> Coordinator:
    return open_simulated(folder, campaign(), resume=resume, **({"commit_every_s": 0.5} | services))


def scored(coordinator: Coordinator) -> set[tuple[str, str, float]]:
    rows = coordinator.run.store.rows(schema.ITEM_SCORES)
    return {(row["recipe_hash"], row["item"], row["score"]) for row in rows}


def work_through(coordinator: Coordinator, units: int) -> None:
    evaluator = SimulatedEvaluator()
    work = coordinator.next_work(WORKER)
    for _ in range(units):
        assert isinstance(work, Work)
        work = coordinator.exchange(WORKER, evaluator.evaluate(work))


def test_scores_wait_until_half_a_second_is_over_and_are_then_written_by_whatever_call_comes(tmp_path: Path) -> None:
    for way, call in enumerate((Coordinator.status, lambda c: c.heartbeat(WORKER), lambda c: c.next_work(WORKER))):
        clock = Clock()
        coordinator = opened(tmp_path / str(way), now=clock)
        work_through(coordinator, 4)
        assert not scored(coordinator)
        call(coordinator)
        assert not scored(coordinator)
        clock.time += 0.6
        call(coordinator)
        assert len(scored(coordinator)) == 60
        coordinator.close()


def test_to_note_the_time_used_makes_no_commit_of_its_own(tmp_path: Path) -> None:
    clock = Clock()
    coordinator = opened(tmp_path, now=clock, commit_every_s=60.0)
    work_through(coordinator, 2)
    clock.time += NOTE_TIME_EVERY_S + 1
    coordinator.status()
    assert not scored(coordinator)
    coordinator.save()
    assert len(scored(coordinator)) == 30
    row = coordinator.run.store.rows(schema.CAMPAIGNS, id=coordinator.run.store.campaign)[0]
    assert row["seconds"] == NOTE_TIME_EVERY_S + 1
    coordinator.close()


def test_a_clock_that_is_set_back_delays_no_commit(tmp_path: Path) -> None:
    clock = Clock()
    coordinator = opened(tmp_path, now=clock)
    work_through(coordinator, 1)
    clock.time -= 500.0
    coordinator.status()
    assert len(scored(coordinator)) == 15
    coordinator.close()


def test_a_unit_that_began_and_ended_between_two_commits_is_one_row(tmp_path: Path) -> None:
    coordinator = opened(tmp_path)
    work_through(coordinator, 5)
    coordinator.pause()
    coordinator.close()
    leases = open_simulated(tmp_path, campaign(), resume=True).run.store.rows(schema.LEASES)
    assert [row["state"] for row in leases] == ["done"] * 5 + ["lost"]  # the sixth was handed out


def test_a_kill_between_two_commits_changes_neither_rows_nor_verdict(tmp_path: Path) -> None:
    calm = opened(tmp_path / "calm", commit_every_s=0.0)
    verdict = run_inline(calm, SimulatedEvaluator())
    expected = scored(calm), [calm.run.store.rows(table) for table in TABLES[:3]]
    killed = tmp_path / "killed"
    for units in (11, 3, 36, 5):  # commits of a continued run wait only after a while
        work_through(opened(killed, resume=killed.exists()), units)  # nobody closes it: what waits is lost
    last = opened(killed, resume=True)
    assert run_inline(last, SimulatedEvaluator()) == verdict
    last.status()
    last.close()
    again = open_simulated(killed, campaign(), resume=True)
    assert (scored(again), [again.run.store.rows(table) for table in TABLES[:3]]) == expected


def test_the_holdout_is_in_the_ledger_before_anybody_gets_an_item_of_it(tmp_path: Path) -> None:
    coordinator, evaluator = opened(tmp_path, commit_every_s=1e9), SimulatedEvaluator()
    work = coordinator.next_work(WORKER)
    while isinstance(work, Work) and work.split != "holdout":
        work = coordinator.exchange(WORKER, evaluator.evaluate(work))
    assert isinstance(work, Work)
    assert work.candidate in {row["candidate"] for row in coordinator.run.store.rows(schema.LEDGER)}
    while isinstance(work, Work):
        work = coordinator.exchange(WORKER, evaluator.evaluate(work))
    assert coordinator.run.store.rows(schema.CAMPAIGNS)[0]["verdict"] is not None


def test_a_predecessor_finds_out_when_it_commits_and_answers_nothing_after_that(tmp_path: Path) -> None:
    clock = Clock()
    old = opened(tmp_path, now=clock)
    work_through(old, 3)
    new = opened(tmp_path, resume=True)
    clock.time += 1.0
    with pytest.raises(StaleEpoch):
        old.status()
    with pytest.raises(StaleEpoch):
        old.next_work(WORKER)
    assert not scored(new)


def test_a_unit_that_ends_its_process_every_time_is_given_up_and_no_other_with_it(tmp_path: Path) -> None:
    """However soon after a commit it is handed out: its lease is in the rows by then, and counted."""
    evaluator, starts, deadly = SimulatedEvaluator(), 0, 3
    phase, coordinator = "search", opened(tmp_path, commit_every_s=1e9)
    while phase == "search" and starts < 2 * MAX_ATTEMPTS:
        work = coordinator.next_work(WORKER)
        while isinstance(work, Work) and work.candidate != deadly:
            work = coordinator.exchange(WORKER, evaluator.evaluate(work))
        phase = coordinator.status().phase
        coordinator, starts = opened(tmp_path, resume=True, commit_every_s=1e9), starts + 1
    lost = coordinator.run.store.rows(schema.ASSESSMENTS, state="lost")
    assert [row["number"] for row in lost] == [deadly]
    assert starts <= MAX_ATTEMPTS + 2
    coordinator.close()


def test_a_campaign_that_gives_up_leaves_the_causes_in_its_rows(tmp_path: Path) -> None:
    coordinator = opened(tmp_path, commit_every_s=1e9)

    def fail_all() -> None:
        while isinstance(work := coordinator.next_work(WORKER), Work):
            coordinator.submit(WORKER, Failed(work.lease, "no such file", retryable=False))

    with pytest.raises(EvaluationError, match="no candidate can be scored"):
        fail_all()
    causes = {row["cause"] for row in coordinator.run.store.rows(schema.ASSESSMENTS, state="lost")}
    assert causes == {"no such file"}


def test_a_campaign_that_gives_up_and_cannot_say_so_answers_nothing_more(tmp_path: Path) -> None:
    old = opened(tmp_path, commit_every_s=1e9)
    work = old.next_work(WORKER)
    opened(tmp_path, resume=True).close()

    def fail_all(work: Any) -> None:
        while isinstance(work, Work):
            work = old.exchange(WORKER, Failed(work.lease, "no such file", retryable=False))

    with pytest.raises(StaleEpoch):
        fail_all(work)
    with pytest.raises(EvaluationError):
        old.next_work(WORKER)
