"""Campaigns on Ray: the verdict of one process, whoever is killed or stopped in between."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import actor_pids
from simulated import Landscape, SimulatedEvaluator, campaign_data, make_campaign, open_simulated
from simulated_actors import (
    MistakenWorker,
    MortalWorker,
    OtherWorker,
    PreemptedWorker,
    SimulatedCoordinator,
    SimulatedWorker,
    UnequalWorker,
)
from simulated_driver import run_until_killed

from cluster import crew, search_job
from cluster.ray_session import Session
from cluster.search_job import Hire, search_on_ray
from engine.errors import Busy, CampaignError, ClusterError, OutputExists, WorkerLost
from search.campaign_file import Campaign, load_campaign
from search.evaluators.audit import read_attempts
from search.inline import run_inline
from search.judging.verdicts import verdict_to_dict
from search.ports import CampaignStatus, Verdict
from search.run import RunDirectory
from search.session import Outcome, stored_results
from search.store import schema
from search.store.store import Store, store_url
from search.store.transaction import Row

pytestmark = pytest.mark.ray
SMALL: dict[str, Any] = {
    "budget": {"items": 900},
    "items": {"window": {0: 15}, "block_size": 40, "selection": 20, "holdout": 40},
    "selection": {"top": 2, "means": 2, "soup": 3},
}
Watch = Callable[[CampaignStatus], None]


def conclude(campaign: Campaign, directory: RunDirectory) -> Outcome:
    """Without report and publishing, which need real models."""
    return Outcome(directory, stored_results(campaign, directory).verdict, directory.report, None)


@pytest.fixture(autouse=True)
def simulated_campaign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "EvaluatorWorker", SimulatedWorker)
    monkeypatch.setattr(search_job, "CoordinatorActor", SimulatedCoordinator)
    monkeypatch.setattr(search_job, "check_start", lambda *_: None)  # simulated campaigns name no real models
    monkeypatch.setattr(search_job, "conclude", conclude)
    monkeypatch.setattr(search_job, "LEASE_S", 10.0)
    monkeypatch.setattr(search_job, "POLL_S", 0.1)  # they last a second or two
    monkeypatch.setattr(search_job, "STOPPED_S", 0.5)


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    path = tmp_path / "campaign.yml"
    path.write_text(yaml.safe_dump(campaign_data(**SMALL)))
    return path


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The verdict of one process that nobody disturbs."""
    coordinator = open_simulated(tmp_path_factory.mktemp("inline"), make_campaign(**SMALL))
    verdict = run_inline(coordinator, SimulatedEvaluator())
    assert verdict is not None
    return verdict_to_dict(verdict)


def search(path: Path, ray_here: Session, *, workers: int = 1, **more: Any) -> Outcome:
    root = path.parent / "run"
    return search_on_ray(path, root=root, hire=Hire(ray_here.address, workers, cpus_per_worker=0.2), **more)


def once(after_items: int, act: Callable[[], object]) -> Watch:
    """A progress callback that acts when so many items were scored, in whatever phase."""
    acted: list[bool] = []

    def watch(status: CampaignStatus) -> None:
        if not acted and (status.items_done >= after_items or status.phase != "search"):
            acted.append(True)
            act()

    return watch


def kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    assert pids
    for pid in pids:
        os.kill(pid, number)


def attempts(path: Path) -> list[dict[str, Any]]:
    return read_attempts(RunDirectory(path.parent / "run").audit)


def leases(path: Path) -> list[Row]:
    store = Store(store_url(None, default=RunDirectory(path.parent / "run").database))
    try:
        store.find("simulated")
        return store.rows(schema.LEASES)
    finally:
        store.close()


def no_item_was_scored_twice(path: Path, *, but: int = 0) -> None:
    """At most `but` attempts beyond the first of a (candidate, item)."""
    counted = Counter((attempt["candidate"], attempt["item"]) for attempt in attempts(path))
    assert sum(counted.values()) - len(counted) <= but


def answer(outcome: Outcome) -> dict[str, Any]:
    verdict: Verdict | None = outcome.verdict
    assert verdict is not None
    return verdict_to_dict(verdict)


def test_one_evaluator_gives_the_verdict_of_one_process(
    ray_here: Session, campaign: Path, expected: dict[str, Any]
) -> None:
    seen: list[CampaignStatus] = []
    outcome = search(campaign, ray_here, on_progress=seen.append)
    assert answer(outcome) == expected
    assert seen[-1].phase == "done"
    assert {status.epoch for status in seen} == {1}
    no_item_was_scored_twice(campaign)
    assert not (campaign.parent / "run" / "probe").exists()


def test_several_evaluators_share_the_work_and_score_nothing_twice(ray_here: Session, campaign: Path) -> None:
    outcome = search(campaign, ray_here, workers=3)
    assert outcome.verdict is not None
    assert len({attempt["pid"] for attempt in read_attempts(outcome.directory.audit)}) == 3
    no_item_was_scored_twice(campaign)


def test_a_killed_coordinator_comes_back_and_the_verdict_stays(
    ray_here: Session, campaign: Path, expected: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []
    watch = once(300, lambda: kill(actor_pids(ray_here, "SimulatedCoordinator")))

    def progress(status: CampaignStatus) -> None:
        seen.append(status.epoch)
        watch(status)

    assert answer(search(campaign, ray_here, on_progress=progress)) == expected
    assert seen[-1] == 2
    no_item_was_scored_twice(campaign, but=40)
    assert capfd.readouterr().err == ""  # Ray has nothing to warn of
    assert not (campaign.parent / "run" / search_job.INVENTORY).exists()


def test_a_stopped_coordinator_is_replaced(ray_here: Session, campaign: Path, expected: dict[str, Any]) -> None:
    watch = once(300, lambda: kill(actor_pids(ray_here, "SimulatedCoordinator"), signal.SIGSTOP))
    assert answer(search(campaign, ray_here, on_progress=watch)) == expected
    no_item_was_scored_twice(campaign, but=40)


def test_a_killed_evaluator_is_replaced_and_the_verdict_stays(
    ray_here: Session, campaign: Path, expected: dict[str, Any]
) -> None:
    watch = once(300, lambda: kill(actor_pids(ray_here, "SimulatedWorker")))
    assert answer(search(campaign, ray_here, on_progress=watch)) == expected
    no_item_was_scored_twice(campaign, but=40)


def test_an_evaluator_that_is_asked_to_end_hands_its_block_in_and_another_goes_on(
    ray_here: Session, campaign: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM, as preempted pods get it: nothing is scored twice, and no lease runs out or is lost."""
    monkeypatch.setattr(crew, "EvaluatorWorker", PreemptedWorker)
    assert answer(search(campaign, ray_here)) == expected
    assert len({attempt["pid"] for attempt in attempts(campaign)}) == 2
    no_item_was_scored_twice(campaign)
    assert {row["state"] for row in leases(campaign)} == {"done"}


def test_half_of_the_evaluators_taken_away_again_and_again_lose_no_candidate_and_no_score(
    ray_here: Session, campaign: Path
) -> None:
    """Every other time without a word (SIGKILL); all rows are those of the formula, the winner's above all."""
    due, taken = [100], list[int]()

    def preempt(status: CampaignStatus) -> None:
        spent, there = len(attempts(campaign)), actor_pids(ray_here, "SimulatedWorker")
        if spent < due[0] or not there or status.phase == "done":
            return
        half = there[: -(-len(there) // 2)]
        kill(half, signal.SIGKILL if len(taken) % 2 else signal.SIGTERM)
        taken.append(len(half))
        due[0] = spent + 250

    outcome = search(campaign, ray_here, workers=4, on_progress=preempt)
    assert len(taken) >= 2
    found = stored_results(load_campaign(campaign), outcome.directory)
    assert not [row for row in found.candidates if row.failure]
    assert outcome.verdict is not None
    assert outcome.verdict.winner == found.winner
    truth = {row.number: Landscape().scores(row.recipe) for row in found.candidates}
    assert all(row.score == truth[row.candidate](row.item) for row in found.item_scores)
    no_item_was_scored_twice(campaign, but=sum(taken) * 40)


def test_an_evaluator_that_fails_what_others_score_is_dismissed_and_named(ray_here: Session, campaign: Path) -> None:
    seen: list[CampaignStatus] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crew, "EvaluatorWorker", UnequalWorker)
        outcome = search(campaign, ray_here, workers=3, on_progress=seen.append)
    assert any(status.note.startswith("cordoned: ") and status.note.endswith("-2") for status in seen)
    assert seen[-2].workers <= 4  # the bad one, the two others, and who came instead
    found = stored_results(load_campaign(campaign), outcome.directory)
    assert not [row for row in found.candidates if row.failure]
    assert found.verdict is not None
    assert "that others scored, the last with: CUDA error" in found.verdict.notes[0]
    assert sum(row["state"] == "failed" for row in leases(campaign)) <= 6


def test_a_stopped_evaluator_is_replaced_and_the_verdict_stays(
    ray_here: Session, campaign: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_job, "LEASE_S", 2.0)
    stopped: list[int] = []

    def stop_it() -> None:
        stopped.extend(actor_pids(ray_here, "SimulatedWorker"))
        kill(stopped, signal.SIGSTOP)

    try:
        assert answer(search(campaign, ray_here, on_progress=once(300, stop_it))) == expected
    finally:
        for pid in stopped:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)


def test_a_pause_and_a_resume_give_the_verdict_of_an_undisturbed_run(
    ray_here: Session, campaign: Path, expected: dict[str, Any]
) -> None:
    asked: list[bool] = []
    paused = search(campaign, ray_here, on_progress=once(200, lambda: asked.append(True)), stop=lambda: bool(asked))
    assert paused.verdict is None
    with pytest.raises((OutputExists, Busy), match="--resume"):  # Busy while the paused actor's process still ends
        search(campaign, ray_here)
    assert answer(search(campaign, ray_here, resume=True)) == expected
    no_item_was_scored_twice(campaign)


def test_a_campaign_whose_driver_was_killed_goes_on_with_resume(
    ray_here: Session, campaign: Path, expected: dict[str, Any]
) -> None:
    run_until_killed(campaign, ray_here.address, 300)
    seen: list[CampaignStatus] = []
    assert answer(search(campaign, ray_here, resume=True, on_progress=seen.append)) == expected
    assert seen[-1].epoch == 2
    no_item_was_scored_twice(campaign, but=40)


def test_a_mistake_that_an_evaluator_finds_is_that_very_error_and_leaves_nothing(
    ray_here: Session, campaign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "EvaluatorWorker", MistakenWorker)
    with pytest.raises(CampaignError, match="did you mean 'letters'") as caught:
        search(campaign, ray_here)
    assert type(caught.value) is CampaignError
    assert caught.value.key == "tasks[0]"
    assert not (campaign.parent / "run").exists()


def test_evaluators_that_always_die_end_the_campaign(
    ray_here: Session, campaign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "EvaluatorWorker", MortalWorker)
    monkeypatch.setattr(crew, "MAX_LOSSES", 2)
    with pytest.raises(WorkerLost, match="3 evaluators died with no score in between"):
        search(campaign, ray_here)


def test_evaluators_that_would_not_score_alike_are_refused(
    ray_here: Session, campaign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "EvaluatorWorker", OtherWorker)
    with pytest.raises(ClusterError, match="would not score alike: their evaluation key"):
        search(campaign, ray_here, workers=2)
