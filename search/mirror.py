"""The search as an Optuna study: in memory for figures, and in an SQLite file that `optuna-dashboard` opens.

The file is an export: nothing reads it back. It is written by one bulk insert per table, because Optuna's own
`add_trial` takes 46 ms for a trial of 21 parameters on SQLite (one commit per row); a test loads it through Optuna.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, MetaData, create_engine, insert, select

from search.judging.objectives import Direction
from search.results import CandidateRow, Results
from search.space import make_space
from search.whole_file import whole_file

if TYPE_CHECKING:
    import optuna


def make_trials(results: Results) -> list[optuna.trial.FrozenTrial]:
    """One finished trial per candidate of the search, with its window score, or the values of its objectives; a lost
    one is a failed trial, one out of bounds an infeasible one."""
    import optuna

    states = optuna.trial.TrialState
    space = make_space(results.campaign, layers=results.layers)
    stages = {stage.name: index for index, stage in enumerate(space.stages)}
    trials = []
    for row in _finished(results.candidates):
        distributions = space.stages[stages[row.stage]].distributions() if row.params else {}
        lost = row.search_score is None
        trial = optuna.trial.create_trial(
            state=states.FAIL if lost else states.COMPLETE if row.stopped_after is None else states.PRUNED,
            values=None if row.search_score is None else row.values or (row.search_score,),
            params=dict(row.params),
            distributions=dict(distributions),
            user_attrs={"label": row.label, "stage": row.stage, "origin": row.origin, "recipe_hash": row.recipe_hash},
        )
        if results.campaign.constraints and not lost:
            trial.set_constraint("violation", row.violation)
        trials.append(trial)
    return trials


def directions_of(results: Results) -> list[Direction]:
    """One per objective; without objectives the score is maximized."""
    return ["maximize" if entry.sign > 0 else "minimize" for entry in results.campaign.objectives] or ["maximize"]


def make_study(results: Results) -> optuna.Study:
    """The search as an in-memory study, for `optuna.visualization`."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        directions=directions_of(results), study_name=results.campaign.name, storage=shared_trials()
    )
    study.add_trials(make_trials(results))
    return study


def shared_trials() -> optuna.storages.BaseStorage:
    """A storage in memory that hands out its trials themselves, for readers: Optuna's figures copy all trials once for
    every axis, which takes seconds for 500 trials of 21 parameters."""
    import optuna

    class Shared(optuna.storages.InMemoryStorage):
        def get_all_trials(
            self, study_id: int, deepcopy: bool = True, states: Container[optuna.trial.TrialState] | None = None
        ) -> list[optuna.trial.FrozenTrial]:
            return super().get_all_trials(study_id, deepcopy=False, states=states)

    return Shared()


def write_mirror(path: Path, results: Results) -> None:
    """Make the study file anew beside `path`, then put it in its place."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with whole_file(path) as partial:
        url = f"sqlite:///{partial}"
        storage = optuna.storages.RDBStorage(url)
        study = optuna.create_study(
            storage=storage, study_name=results.campaign.name, directions=directions_of(results)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names of metrics are an experimental feature of Optuna
            study.set_metric_names([entry.title for entry in results.campaign.objectives] or ["score"])
        storage.engine.dispose()
        engine = create_engine(url)
        with engine.begin() as connection:
            _insert_trials(connection, make_trials(results))
        engine.dispose()


def _insert_trials(connection: Connection, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
    """Rows of Optuna's own tables (schema 12), one statement per table."""
    from optuna.distributions import distribution_to_json

    metadata = MetaData()
    metadata.reflect(connection)
    tables = metadata.tables
    study = connection.execute(select(tables["studies"].c.study_id)).scalar_one()
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("trials", "trial_values", "trial_params")}
    rows |= {"trial_user_attributes": [], "trial_system_attributes": []}
    for key, trial in enumerate(trials, start=1):
        times = {"datetime_start": trial.datetime_start, "datetime_complete": trial.datetime_complete}
        state = {"trial_id": key, "number": key - 1, "study_id": study, "state": trial.state.name}
        rows["trials"].append(state | times)
        for objective, value in enumerate(trial.values or ()):
            entry = {"trial_id": key, "objective": objective, "value": value, "value_type": "FINITE"}
            rows["trial_values"].append(entry)
        for name, number in trial.params.items():
            distribution = distribution_to_json(trial.distributions[name])
            inner = trial.distributions[name].to_internal_repr(number)  # a category's place among its choices
            param = {"trial_id": key, "param_name": name, "param_value": inner, "distribution_json": distribution}
            rows["trial_params"].append(param)
        for name, attribute in trial.user_attrs.items():
            rows["trial_user_attributes"].append({"trial_id": key, "key": name, "value_json": json.dumps(attribute)})
        for name, attribute in trial.system_attrs.items():  # constraints
            rows["trial_system_attributes"].append({"trial_id": key, "key": name, "value_json": json.dumps(attribute)})
    for name, entries in rows.items():
        if entries:
            connection.execute(insert(tables[name]), entries)


def _finished(candidates: Sequence[CandidateRow]) -> list[CandidateRow]:
    """Candidates whose search is over, in the order in which it ended."""
    return sorted((row for row in candidates if row.order is not None), key=lambda row: row.order or 0)
