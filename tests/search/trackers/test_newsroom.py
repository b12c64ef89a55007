"""What trackers are told of a campaign: all of it, once, after it was committed, the same at every start."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from simulated import SimulatedEvaluator, make_campaign, open_simulated

from engine.errors import EvaluationError
from search.inline import run_inline, work_once
from search.ports import BlockResult, Failed, Work
from search.store import schema
from search.trackers.contract import (
    CandidateScored,
    Ended,
    Judged,
    MeanMoved,
    News,
    Started,
    from_plain,
    metrics_of,
    to_plain,
)

SMALL = {
    "budget": {"items": 450},
    "items": {"window": {0: 15}, "block_size": 40, "selection": 20, "holdout": 40},
    "selection": {"top": 2, "means": 2, "soup": 3},
}


def numbered(news: Sequence[News]) -> list[Any]:
    return [entry for entry in news if not isinstance(entry, Started | Ended)]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[News]:
    """What one campaign, run to its end, tells; the fake of the seam is a list's `extend`."""
    news: list[News] = []
    coordinator = open_simulated(tmp_path_factory.mktemp("run"), make_campaign(**SMALL), tell=news.extend)
    run_inline(coordinator, SimulatedEvaluator())
    coordinator.close()
    return news


def test_a_campaign_starts_scores_moves_is_judged_and_ends(told: list[News]) -> None:
    assert isinstance(told[0], Started)
    assert told[0].facts["sources"] == "letters, numerals, plurals"
    assert isinstance(told[-2], Judged)
    assert told[-1] == Ended("done")
    assert [entry.at for entry in numbered(told)] == list(range(1, len(told) - 1))


def test_every_result_is_told_with_the_numbers_of_the_rows(tmp_path: Path) -> None:
    news: list[News] = []
    coordinator = open_simulated(tmp_path, make_campaign(**SMALL), tell=news.extend)
    run_inline(coordinator, SimulatedEvaluator())
    rows = {(row["number"], row["split"]): row["score"] for row in coordinator.run.store.rows(schema.ASSESSMENTS)}
    scored = [entry for entry in news if isinstance(entry, CandidateScored)]
    assert {(entry.number, entry.split): entry.score for entry in scored} == rows
    assert len(scored) == len(rows)
    verdict = coordinator.verdict()
    judged = next(entry for entry in news if isinstance(entry, Judged))
    assert verdict is not None
    assert judged.sentence == verdict.sentence
    assert judged.over == {found.label: (found.difference, found.lower) for found in verdict.comparisons}
    moved = [entry.mean for entry in news if isinstance(entry, MeanMoved)]
    assert moved
    assert moved == [dict(mean) for stage in coordinator.live.sampler.means() for mean in stage]


def test_nothing_is_told_that_was_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    news: list[News] = []
    coordinator = open_simulated(tmp_path, make_campaign(**SMALL), tell=news.extend)
    work_once(coordinator, SimulatedEvaluator(), worker="a")
    before = len(news)

    def full_disk(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(type(coordinator.run.store), "transaction", full_disk)
    with pytest.raises(OSError, match="no space"):
        work_once(coordinator, SimulatedEvaluator(), worker="a")
    assert len(news) == before
    coordinator.close()
    assert news[-1] == Ended("failed")


@pytest.mark.parametrize("units", [30])
def test_a_resumed_campaign_tells_the_same_news_under_the_same_numbers(
    tmp_path: Path, told: list[News], units: int
) -> None:
    first: list[News] = []
    killed = open_simulated(tmp_path, make_campaign(**SMALL), tell=first.extend)
    for _ in range(units):
        work_once(killed, SimulatedEvaluator(), worker="inline")
    again: list[News] = []
    resumed = open_simulated(tmp_path, make_campaign(**SMALL), resume=True, tell=again.extend)
    run_inline(resumed, SimulatedEvaluator())
    known = numbered(first)
    assert known
    assert numbered(again)[: len(known)] == known
    assert numbered(again) == numbered(told)


class Speechless(SimulatedEvaluator):
    """Nobody is scored on the holdout."""

    def evaluate(self, work: Work) -> BlockResult | Failed:
        failed = Failed(work.lease, "no grade", retryable=False)
        return failed if work.split == "holdout" else super().evaluate(work)


def test_losses_on_the_holdout_that_are_taken_back_keep_no_later_news_from_being_told(tmp_path: Path) -> None:
    news: tuple[list[News], list[News]] = [], []
    first = open_simulated(tmp_path, make_campaign(**SMALL), tell=news[0].extend)
    with pytest.raises(EvaluationError, match="the winner could not be scored on the holdout"):
        run_inline(first, Speechless())
    first.close()
    again = open_simulated(tmp_path, make_campaign(**SMALL), resume=True, tell=news[1].extend)
    run_inline(again, SimulatedEvaluator())
    again.close()
    before, whole = map(numbered, news)
    assert whole[: len(before)] == before
    assert isinstance(whole[-1], Judged)
    told = [entry.number for entry in whole[len(before) : -1] if entry.split == "holdout"]
    assert sorted(told) == sorted(row["candidate"] for row in again.run.store.rows(schema.LEDGER))


def test_who_stays_lost_on_the_holdout_is_told_of_with_the_verdict(tmp_path: Path) -> None:
    class NoBase(Speechless):
        def evaluate(self, work: Work) -> BlockResult | Failed:
            return super().evaluate(work) if work.candidate == 0 else SimulatedEvaluator.evaluate(self, work)

    news: list[News] = []
    coordinator = open_simulated(tmp_path, make_campaign(**SMALL), tell=news.extend)
    run_inline(coordinator, NoBase())
    coordinator.close()
    lost, judged = numbered(news)[-2:]
    assert (lost.number, lost.split, lost.cause, lost.failed) == (0, "holdout", "no grade", 1)
    assert isinstance(judged, Judged)
    again: list[News] = []
    open_simulated(tmp_path, make_campaign(**SMALL), resume=True, tell=again.extend).close()
    assert numbered(again) == numbered(news)


def test_news_survive_the_pipe(told: list[News]) -> None:
    assert [from_plain(json.loads(json.dumps(to_plain(entry)))) for entry in told] == told


def test_the_metrics_are_finite_numbers_with_the_score_under_its_split(told: list[News]) -> None:
    lost = CandidateScored(5, 3, "x", "", "search", None, 0.5, 30, 1, cause="NaN")
    assert metrics_of(lost) == {"search/best": 0.5, "items": 30.0, "candidate": 3.0, "failed": 1.0}
    last = next(entry for entry in reversed(told) if isinstance(entry, CandidateScored))
    assert metrics_of(last)["holdout/score"] == last.score
