"""The loop in one process: progress while it runs, a clean pause, and the coordinator's two ways to be asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulated import SimulatedEvaluator, make_campaign, open_simulated

from search import ahead
from search.coordinator import Coordinator
from search.inline import run_inline
from search.ports import BlockResult, CampaignStatus, Failed, Finished, Work
from search.store import schema

SMALL = {
    "budget": {"items": 600},
    "items": {"window": {0: 15}, "block_size": 40, "selection": 20, "holdout": 40},
}


class Counting(SimulatedEvaluator):
    units = 0

    def evaluate(self, work: Work) -> BlockResult | Failed:
        self.units += 1
        return super().evaluate(work)


def test_progress_ends_with_the_finished_campaign(tmp_path: Path) -> None:
    seen: list[CampaignStatus] = []
    coordinator = open_simulated(tmp_path, make_campaign(**SMALL))
    verdict = run_inline(coordinator, SimulatedEvaluator(), on_progress=seen.append)
    assert verdict == coordinator.verdict() is not None
    assert (seen[0].phase, seen[-1].phase) == ("search", "done")


def test_a_stop_finishes_the_unit_at_hand_and_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "AHEAD_S", 0.0)
    evaluator, seen = Counting(), list[CampaignStatus]()
    coordinator = open_simulated(tmp_path, make_campaign(**SMALL))
    verdict = run_inline(coordinator, evaluator, on_progress=seen.append, stop=lambda: evaluator.units >= 7)
    assert verdict is None
    assert evaluator.units == 7
    assert seen[-1].paused
    states = [row["state"] for row in coordinator.run.store.rows(schema.LEASES)]
    assert states == ["done"] * 7
    coordinator.close()
    again = open_simulated(tmp_path, make_campaign(**SMALL), resume=True)
    assert run_inline(again, evaluator) is not None


def test_exchange_is_submit_and_next_work(tmp_path: Path) -> None:
    evaluator = SimulatedEvaluator()
    one, other = (open_simulated(tmp_path / name, make_campaign(**SMALL)) for name in ("one", "other"))
    work, twin = one.next_work("w"), other.next_work("w")
    while isinstance(work, Work):
        assert work == twin
        result = evaluator.evaluate(work)
        work = one.exchange("w", result)
        other.submit("w", result)
        twin = other.next_work("w")
    assert work == twin == Finished("done")
    assert one.verdict() == other.verdict()


class Shaky(SimulatedEvaluator):
    """Every fifth candidate fails, every seventh at its first attempt; `units` in the order of scoring."""

    def __init__(self) -> None:
        super().__init__()
        self.units: list[Work] = []

    def evaluate(self, work: Work) -> BlockResult | Failed:
        self.units.append(work)
        draw = int(work.recipe_hash[:4], 16)
        if draw % 5 == 0 or (draw % 7 == 0 and work.attempt == 1):
            return Failed(work.lease, "shaky", retryable=draw % 5 != 0)
        return super().evaluate(work)


def rows_of(coordinator: Coordinator) -> list[object]:
    store = coordinator.run.store
    return [store.rows(table) for table in (schema.CANDIDATES, schema.ASSESSMENTS, schema.LEASES, schema.EVENTS)]


@pytest.mark.parametrize(("window", "at_once"), [(15, 12), (150, 0)])  # of 150 items some candidates see but a part
def test_units_that_are_scored_ahead_change_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, at_once: int
) -> None:
    campaign = make_campaign(budget={"items": 70 * window}, items={"window": {0: window}, "block_size": 40})
    found = {}
    for ahead_s in (0.0, 10.0):
        monkeypatch.setattr(ahead, "AHEAD_S", ahead_s)
        coordinator, evaluator, foreseen = open_simulated(tmp_path / str(ahead_s), campaign), Shaky(), [0]
        foresee = coordinator.foresee

        def noted(limit: int, foresee=foresee, foreseen=foreseen) -> list[Work]:  # type: ignore[no-untyped-def]
            works: list[Work] = foresee(limit)
            foreseen.append(len(works))
            return works

        monkeypatch.setattr(coordinator, "foresee", noted)
        verdict = run_inline(coordinator, evaluator)
        found[ahead_s] = verdict, rows_of(coordinator), len(evaluator.units)
        assert max(foreseen) == (at_once if ahead_s else 0)
        coordinator.close()
    assert found[0.0] == found[10.0]  # and as many units were scored


def test_what_is_foreseen_is_what_is_handed_out(tmp_path: Path) -> None:
    coordinator, evaluator = open_simulated(tmp_path, make_campaign(**SMALL)), SimulatedEvaluator()
    work, expected, right = coordinator.next_work("w"), list[Work](), 0
    while isinstance(work, Work):
        if expected:
            assert work == expected.pop(0)
            right += 1
        else:
            expected = coordinator.foresee(9)
            assert coordinator.foresee(2) == expected[:2]
        work = coordinator.exchange("w", evaluator.evaluate(work))
    assert right > 10
    assert coordinator.foresee(9) == []
    coordinator.close()


def test_nothing_is_foreseen_in_a_run_that_was_just_continued_or_that_pauses(tmp_path: Path) -> None:
    """A unit that ends its process is the one that was handed out when it is tried again, and gets the blame."""
    evaluator, coordinator = SimulatedEvaluator(), open_simulated(tmp_path, make_campaign(**SMALL))
    work = coordinator.next_work("w")
    while isinstance(work, Work) and not coordinator.foresee(9):
        work = coordinator.exchange("w", evaluator.evaluate(work))
    coordinator.pause()
    assert coordinator.foresee(9) == []
    again = open_simulated(tmp_path, make_campaign(**SMALL), resume=True)
    for _ in range(12):
        work = again.next_work("w")
        assert isinstance(work, Work)
        assert again.foresee(9) == []
        again.submit("w", evaluator.evaluate(work))
    again.close()


def test_a_stop_hands_in_what_was_scored_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "AHEAD_S", 10.0)
    evaluator, coordinator = Counting(), open_simulated(tmp_path, make_campaign(**SMALL))
    assert run_inline(coordinator, evaluator, stop=lambda: evaluator.units >= 20) is None
    states = [row["state"] for row in coordinator.run.store.rows(schema.LEASES)]
    assert states == ["done"] * evaluator.units
    coordinator.close()
