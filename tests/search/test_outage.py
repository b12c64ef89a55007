"""An outage of what evaluators need loses nobody: it is waited for, then the campaign pauses, and --resume goes on."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from simulated import Clock, SimulatedEvaluator, make_campaign, open_simulated

from cluster.search_command import OutageLines
from engine.errors import Outage
from search.coordinator import Coordinator
from search.outage import LONGEST_WAIT_S, PATIENCE_S, Outages, refuse_given_up
from search.ports import CampaignStatus, Evaluator, Failed, Finished, Wait, Work
from search.results import results_of

SMALL = make_campaign(
    budget={"items": 500},
    items={"window": {0: 15}, "block_size": 40, "selection": 20, "holdout": 40},
    selection={"top": 1, "means": 1, "soup": 0},
)
DOWN = "judge at http://h/v1: HTTP 500, 5 attempts."


def drive(coordinator: Coordinator, evaluator: Evaluator, clock: Clock, *, down_until: float) -> list[float]:
    """One worker until it is told to end or has scored 20 units; the clock moves while it waits only. The waits."""
    waits, scored = [], 0
    while not isinstance(work := coordinator.next_work("w"), Finished):
        if isinstance(work, Wait):
            waits.append(max(work.after_s, 10.0))
            clock.time += waits[-1]
        elif clock.time < down_until:
            coordinator.submit("w", Failed(work.lease, DOWN, retryable=True, outage=True))
        else:
            coordinator.submit("w", evaluator.evaluate(work))
            scored += 1
        if scored == 20:
            coordinator.pause()
    return waits


def failures(coordinator: Coordinator) -> list[str]:
    found = coordinator.run.store.find("simulated")
    assert found is not None
    return [row.failure for row in results_of(coordinator.run.store, found).candidates if row.failure]


def test_an_outage_is_waited_for_and_its_attempts_count_for_nothing(tmp_path: Path) -> None:
    clock = Clock()
    coordinator = open_simulated(tmp_path, SMALL, now=clock)
    waits = drive(coordinator, SimulatedEvaluator(), clock, down_until=clock.time + 400)
    assert 400 <= sum(waits) <= 410 + LONGEST_WAIT_S
    assert coordinator.status().candidates == 20
    assert not failures(coordinator)
    assert coordinator.status().outage == coordinator.status().gave_up == ""


def test_a_longer_outage_pauses_the_campaign_and_a_resume_tries_the_same_again(tmp_path: Path) -> None:
    clock = Clock()
    coordinator = open_simulated(tmp_path, SMALL, now=clock)
    waits = drive(coordinator, SimulatedEvaluator(), clock, down_until=float("inf"))
    assert PATIENCE_S <= sum(waits) <= PATIENCE_S + LONGEST_WAIT_S + 20
    status = coordinator.status()
    assert (status.paused, status.candidates, status.failed) == (True, 1, 0)
    with pytest.raises(Outage, match=r"paused: outage for \d+ s: judge at .* 5 attempts\. No candidate .* --resume"):
        refuse_given_up(status)
    coordinator.run.store.close()
    again = open_simulated(tmp_path, SMALL, resume=True, now=clock)
    assert drive(again, SimulatedEvaluator(), clock, down_until=0.0) == []
    assert again.status().candidates == 20
    assert not failures(again)


def test_others_go_on_while_one_waits_and_nobody_gives_up(tmp_path: Path) -> None:
    clock = Clock()
    coordinator, evaluator = open_simulated(tmp_path, SMALL, now=clock), SimulatedEvaluator()
    for _ in range(25):
        work = coordinator.next_work("cut-1")
        if isinstance(work, Work):
            coordinator.submit("cut-1", Failed(work.lease, DOWN, retryable=True, outage=True))
        other = coordinator.next_work("well-1")
        if isinstance(other, Work):
            coordinator.submit("well-1", evaluator.evaluate(other))
        clock.time += 30
    assert clock.time > 1000 + PATIENCE_S
    assert not coordinator.status().paused
    assert coordinator.status().items_done >= 300
    assert not failures(coordinator)


def test_waits_grow_up_to_a_bound() -> None:
    outages, now = Outages(), 0.0
    starts = []
    for _ in range(8):
        outages.meet("w", DOWN, now=now)
        starts.append(now)
        while (wait_s := outages.wait_s("w", now=now)) is not None:
            now += wait_s
    gaps = [after - before for before, after in pairwise(starts)]
    assert gaps == [1, 2, 4, 8, 16, 30, 30]


def test_an_outage_is_told_once_a_minute_even_without_progress(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[CampaignStatus] = []
    clock = Clock()
    lines = OutageLines(seen.append, clock=clock)
    common = {"name": "n", "phase": "search", "stage": "s", "candidates": 1, "failed": 0, "best_score": None}
    rest = {"best_candidate": None, "items_done": 0, "items_total": 1, "items_per_s": None, "seconds_left": None}
    for second in range(150):
        clock.time = float(second)
        outage = "outage for 1 s: no judge." if second >= 10 else ""
        lines(CampaignStatus(**common, **rest, workers=1, epoch=1, outage=outage))  # type: ignore[arg-type]
    told = capsys.readouterr().err.splitlines()
    assert told == ["outage for 1 s: no judge. Trying again, for 10 minutes in all; then the campaign pauses."] * 3
    assert len(seen) == 150
