"""The loop in one process: progress while it runs, a clean pause, and the coordinator's two ways to be asked."""

from __future__ import annotations

from pathlib import Path

from simulated import SimulatedEvaluator, make_campaign, open_simulated

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


def test_a_stop_finishes_the_unit_at_hand_and_pauses(tmp_path: Path) -> None:
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
