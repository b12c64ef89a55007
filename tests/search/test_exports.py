"""What a run leaves for other tools says what its rows say, and is replaced as a whole."""

from __future__ import annotations

import contextlib
import gc
import sqlite3
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from pyarrow import parquet
from simulated import SimulatedEvaluator, make_campaign, open_simulated

from engine.errors import CampaignError
from search import collector
from search.inline import run_inline, work_once
from search.mirror import make_study, shared_trials, write_mirror
from search.ports import BlockResult, Failed, Work
from search.results import Results, read_results
from search.run import RunDirectory
from search.store.store import store_url


class LosesTwo(SimulatedEvaluator):
    def evaluate(self, work: Work):  # type: ignore[no-untyped-def]
        if work.candidate in (3, 20):
            return Failed(work.lease, "boom", retryable=False)
        result = super().evaluate(work)
        assert isinstance(result, BlockResult)
        return replace(result, measures={"tokens": {item: float(len(item)) for item in work.items[::2]}})


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("run")
    changes = {"budget": {"items": 900}, "items": {"window": {0: 15}, "block_size": 50, "holdout": 30}}
    coordinator = open_simulated(folder, make_campaign(**changes))
    run_inline(coordinator, LosesTwo())
    coordinator.close()
    return RunDirectory(folder)


@pytest.fixture(scope="module")
def results(directory: RunDirectory) -> Results:
    return read_results(store_url(None, default=directory.database), name="simulated")


def test_the_results_hold_every_candidate_score_and_access(results: Results) -> None:
    assert results.phase == "done"
    assert [row.number for row in results.candidates] == list(range(len(results.candidates)))
    assert len({row.label for row in results.candidates}) == len(results.candidates)
    assert {row.number for row in results.candidates if row.failure} == {3, 20}
    searched = [row for row in results.candidates if row.search_score is not None]
    assert all(row.estimate is not None and row.weights_digest == f"w{row.recipe_hash}" for row in searched)
    assert all((row.order is None) == (row.cohort is None) for row in results.candidates)
    verdict = results.verdict
    assert verdict is not None
    assert results.winner == verdict.winner
    assert {entry.candidate for entry in results.ledger if entry.reason == "winner"} == {verdict.winner}
    assert results.candidate(verdict.winner).holdout_score == pytest.approx(verdict.score)
    assert {row.stage for row in results.candidates} == {"", "global", "layers"}


def test_items_spent_are_item_evaluations_paid_for(results: Results) -> None:
    lost = 2 * 15
    planned = sum(15 for row in results.candidates if row.cohort is not None)
    assert results.items_spent["search"] == planned - lost
    assert results.items_spent["holdout"] == 90 * len({entry.candidate for entry in results.ledger})


def test_a_mean_over_the_items_gives_the_score_of_the_row(results: Results) -> None:
    for split, attribute in (("search", "search_score"), ("holdout", "holdout_score")):
        for row in results.candidates:
            score = getattr(row, attribute)
            scores = [
                entry.score for entry in results.item_scores if (entry.candidate, entry.split) == (row.number, split)
            ]
            assert (score is None) == (not scores)
            if scores:
                assert score == pytest.approx(sum(scores) / len(scores))  # equal tasks, equally many items of each


def test_a_store_without_the_campaign_is_an_input_error(directory: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match="holds no run of campaign 'other'"):
        read_results(store_url(None, default=directory.database), name="other")
    with pytest.raises(CampaignError, match="holds no run"):
        read_results(store_url(None, default=tmp_path / "none.sqlite"), name="simulated")


def test_the_parquet_export_is_the_item_matrix(directory: RunDirectory, results: Results) -> None:
    table = parquet.read_table(directory.scores).to_pylist()
    columns = ("candidate", "split", "task", "item", "measure", "score")
    found = [tuple(row[name] for name in columns) for row in table]
    scores = [(e.candidate, e.split, e.task, e.item, "score", e.score) for e in results.item_scores]
    assert found == scores + [tuple(vars(entry).values()) for entry in results.item_measures]
    assert {(e.measure, e.value == len(e.item)) for e in results.item_measures} == {("tokens", True)}
    assert all(row["recipe_hash"] == results.candidate(row["candidate"]).recipe_hash for row in table)


def test_optuna_opens_the_mirror_and_finds_every_candidate_of_the_search(
    directory: RunDirectory, results: Results
) -> None:
    study = optuna.load_study(study_name="simulated", storage=f"sqlite:///{directory.mirror}")
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    trials = {trial.user_attrs["label"]: trial for trial in study.get_trials()}
    searched = [row for row in results.candidates if row.order is not None]
    assert set(trials) == {row.label for row in searched}
    for row in searched:
        trial = trials[row.label]
        assert trial.params == row.params
        assert trial.value == row.search_score
        assert trial.state.name == ("COMPLETE" if row.search_score is not None else "FAIL")
    assert [trial.number for trial in study.get_trials()] == list(range(len(searched)))
    study.add_trial(optuna.trial.create_trial(value=0.5))  # the file is a full citizen: Optuna can go on with it


def test_the_mirror_and_the_study_in_memory_are_the_same_trials(results: Results, tmp_path: Path) -> None:
    write_mirror(tmp_path / "m.sqlite", results)
    stored = optuna.load_study(study_name="simulated", storage=f"sqlite:///{tmp_path}/m.sqlite").get_trials()
    memory = make_study(results).get_trials()
    facts = [
        [(t.number, t.params, t.value, t.state, t.user_attrs, t.distributions) for t in s] for s in (stored, memory)
    ]
    assert facts[0] == facts[1]


def test_a_mirror_is_replaced_as_a_whole_and_leaves_nothing_beside_it(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    path.write_bytes(b"torn")
    (tmp_path / "m.sqlite.partial").write_bytes(b"torn, too")
    write_mirror(path, results)
    with sqlite3.connect(path) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.sqlite"]


def test_exports_of_a_paused_run_hold_what_there_is(tmp_path: Path) -> None:
    coordinator, evaluator = open_simulated(tmp_path, make_campaign()), SimulatedEvaluator()
    for _ in range(5):
        work_once(coordinator, evaluator, worker="w")
    coordinator.pause()
    coordinator.close()
    directory = RunDirectory(tmp_path)
    assert len(parquet.read_table(directory.scores)) == 5 * 15
    found = read_results(store_url(None, default=directory.database), name="simulated")
    assert (found.phase, found.verdict, found.winner) == ("search", None, None)


def test_torn_exports_are_rebuilt_from_the_rows(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    for attempt in range(2):
        coordinator = open_simulated(tmp_path, make_campaign(), resume=attempt > 0)
        work_once(coordinator, SimulatedEvaluator(), worker="w")
        coordinator.close()
        table = parquet.read_table(directory.scores)
        assert len(table) == 15 * (attempt + 1)
        directory.scores.write_bytes(b"PAR1 torn")
        directory.mirror.write_bytes(b"torn")


def test_figures_read_the_trials_themselves_and_no_copies_of_them(directory: RunDirectory) -> None:
    """Optuna's figures take all trials once per axis: copies of them were most of a report's time."""
    study = make_study(read_results(store_url(None, default=directory.database), name="simulated"))
    assert study.trials[0] is study.trials[0]
    assert optuna.create_study(storage=shared_trials()).trials == []


def test_the_collector_is_as_it_was_after_what_it_was_kept_from() -> None:
    with contextlib.suppress(KeyError), collector.settled(), collector.paused():
        assert gc.get_freeze_count()
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    assert not gc.get_freeze_count()
