"""What a run leaves for other tools says what its rows say, and is replaced as a whole."""

from __future__ import annotations

import contextlib
import gc
import re
import sqlite3
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import optuna
import pytest
from pyarrow import parquet
from simulated import SimulatedEvaluator, make_campaign, open_simulated

from engine.errors import CampaignError
from search import collector
from search.campaign_file import load_campaign
from search.inline import run_inline, work_once
from search.mirror import distribution_json, write_mirror
from search.ports import BlockResult, Failed, Work
from search.results import Results, read_results
from search.run import RunDirectory
from search.space import make_space
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
    met = {entry.candidate for entry in results.ledger}
    assert met - {row.number for row in results.candidates if row.holdout_score is not None} == {3}  # a parent, lost
    assert results.items_spent["holdout"] == 90 * (len(met) - 1)


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
    entries = [*results.item_scores, *results.item_measures]
    assert found == [(e.candidate, e.split, e.task, e.item, e.measure, e.score) for e in entries]
    assert {entry.measure for entry in results.item_scores} == {"score"}
    assert {(e.measure, e.score == len(e.item)) for e in results.item_measures} == {("tokens", True)}
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


def test_the_mirror_has_the_tables_and_rows_that_optuna_writes_itself(results: Results, tmp_path: Path) -> None:
    """Only the moment is another one."""
    lost, bounded = results.candidate(3), {"constraints": [{"of": "score", "at_least": 0.1}]}
    stopped = replace(results.candidate(5), stopped_after=10, violation=0.25)
    few = (*results.candidates[:3], lost, results.candidate(4), stopped, *results.candidates[30:34])
    part = replace(results, candidates=few, campaign=make_campaign(**bounded))
    write_mirror(tmp_path / "ours.sqlite", part)
    write_with_optuna(tmp_path / "optuna.sqlite", part)
    ours, theirs = (rows_and_tables(tmp_path / f"{name}.sqlite") for name in ("ours", "optuna"))
    assert ours == theirs
    assert {row[3] for row in ours["trials"]} == {"COMPLETE", "FAIL", "PRUNED"}
    assert len(ours["trial_system_attributes"]) == len(few) - 1


def write_with_optuna(path: Path, results: Results) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    study = optuna.create_study(storage=storage, study_name=results.campaign.name, direction="maximize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names of metrics are an experimental feature of Optuna
        study.set_metric_names(["score"])
    stages = {stage.name: stage for stage in make_space(results.campaign, layers=results.layers).stages}
    states = optuna.trial.TrialState
    for row in sorted(results.candidates, key=lambda row: row.order or 0):
        state = states.FAIL if row.failure else states.PRUNED if row.stopped_after else states.COMPLETE
        trial = optuna.trial.create_trial(
            state=state,
            value=row.search_score,
            params=dict(row.params),
            distributions=stages[row.stage].distributions() if row.params else {},
            user_attrs={name: getattr(row, name) for name in ("label", "stage", "origin", "recipe_hash")},
        )
        if not row.failure:
            trial.set_constraint("violation", row.violation)
        study.add_trial(trial)
    storage.engine.dispose()


def rows_and_tables(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Rows by table, keys and moments left out, and under "" the tables and indices themselves."""
    found: dict[str, list[tuple[object, ...]]] = {}
    with contextlib.closing(sqlite3.connect(path)) as connection:
        made = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        found[""] = sorted((name, re.sub(r"\s+|(?<=\()\s|\s(?=\))", "", sql)) for name, sql in made)
        for name in sorted({name for name, sql in made if sql.startswith("CREATE TABLE")}):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({name})") if row[1] not in OWN_KEYS]
            quoted = ", ".join(f'"{column}"' for column in columns)
            rows = connection.execute(f"SELECT {quoted} FROM {name}").fetchall()
            found[name] = sorted(rows)
    return found


OWN_KEYS = ("datetime_start", "datetime_complete", "trial_value_id", "param_id", "trial_user_attribute_id")


@pytest.mark.parametrize("file", sorted(Path("configs/campaigns").glob("*.yml")), ids=lambda file: file.stem)
def test_distributions_are_written_as_optuna_writes_them(file: Path) -> None:
    for stage in make_space(load_campaign(file), layers=4).stages:
        theirs = {name: optuna.distributions.distribution_to_json(d) for name, d in stage.distributions().items()}
        assert {axis.name: distribution_json(axis) for axis in stage.axes} == theirs


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


@pytest.mark.parametrize("name", ["items.parquet", "optuna.sqlite"])
def test_an_export_that_cannot_be_written_ends_nothing_and_the_other_is_made(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = open_simulated(tmp_path)
    work_once(coordinator, SimulatedEvaluator(), worker="w")
    (tmp_path / name).mkdir()
    found = coordinator.close()
    assert found is not None
    assert found.items_spent["search"] == 15
    assert [text.partition(": cannot be written: ")[0] for text in caplog.messages] == [str(tmp_path / name)]
    assert all((tmp_path / made).is_file() for made in {"items.parquet", "optuna.sqlite"} - {name})
    assert not list(tmp_path.glob("*.partial"))


def test_the_collector_is_as_it_was_after_what_it_was_kept_from() -> None:
    with contextlib.suppress(KeyError), collector.settled(), collector.paused():
        assert gc.get_freeze_count()
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    assert not gc.get_freeze_count()


def test_what_was_imported_is_not_looked_at_by_a_settled_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    def frozen_by(name: str) -> int:
        before = gc.get_freeze_count()
        with collector.importing():
            sys.modules.setdefault(name, ModuleType(name))
        return gc.get_freeze_count() - before

    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    assert frozen_by("new") == 0  # nothing is settled: it is freed like everything else
    with collector.settled():
        assert frozen_by("new") == 0
        assert frozen_by("newer") > 0
    assert not gc.get_freeze_count()
