"""The search as an Optuna study in an SQLite file, which Optuna loads and `optuna-dashboard` opens.

The file is an export: nothing reads it back. It is written without Optuna, one statement per table: Optuna's own
`add_trial` takes 46 ms for a trial of 21 parameters (one commit per row), and importing it 0.5 s. Tests load the file
through Optuna and compare every row with what Optuna writes itself.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from search.judging.objectives import Direction
from search.results import CandidateRow, Results
from search.space import make_space
from search.space.axes import Axis, Value
from search.study_tables import REVISION, SCHEMA_VERSION, TABLES
from search.whole_file import whole_file

STUDY = 1  # the only one in its file


def directions_of(results: Results) -> list[Direction]:
    """One per objective; without objectives the score is maximized."""
    return ["maximize" if entry.sign > 0 else "minimize" for entry in results.campaign.objectives] or ["maximize"]


def write_mirror(path: Path, results: Results) -> None:
    """Make the study file anew beside `path`, then put it in its place.

    One finished trial per candidate of the search, in the order in which they finished, with its window score, or the
    values of its objectives; a lost one is a failed trial, one that was stopped early a pruned one, and one out of
    bounds an infeasible one.
    """
    with whole_file(path) as partial, closing(sqlite3.connect(partial)) as connection:
        connection.execute("PRAGMA synchronous=OFF")  # `whole_file` sees to it that it is on disk
        connection.execute("PRAGMA journal_mode=MEMORY")  # a killed process leaves no second file
        connection.executescript(f"BEGIN; {TABLES}")
        _insert(connection, "alembic_version", ("version_num",), [(REVISION,)])
        made_for = (1, SCHEMA_VERSION, version("optuna"))
        _insert(connection, "version_info", ("version_info_id", "schema_version", "library_version"), [made_for])
        for table, (columns, rows) in {**_study(results), **_trials(results)}.items():
            _insert(connection, table, columns, rows)
        connection.commit()


Rows = Iterable[Sequence[Any]]
Content = Mapping[str, tuple[Sequence[str], Rows]]
"""Table → (columns, rows)."""


def _study(results: Results) -> Content:
    names = [entry.title for entry in results.campaign.objectives] or ["score"]
    directions = [(STUDY, place, word.upper()) for place, word in enumerate(directions_of(results))]
    named = (STUDY, "study:metric_names", json.dumps(names))
    return {
        "studies": (("study_id", "study_name"), [(STUDY, results.campaign.name)]),
        "study_directions": (("study_id", "objective", "direction"), directions),
        "study_system_attributes": (("study_id", "key", "value_json"), [named]),
    }


def _trials(results: Results) -> Content:
    finished = sorted((row for row in results.candidates if row.order is not None), key=lambda row: row.order or 0)
    trials = list(enumerate(finished, start=1))
    now = datetime.now(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
    told = [(key, key - 1, STUDY, _state(row), now, now) for key, row in trials]
    bounded = bool(results.campaign.constraints)
    violations = [
        (key, "constraints:violation", json.dumps(row.violation))
        for key, row in trials
        if bounded and row.search_score is not None
    ]
    facts = ("label", "stage", "origin", "recipe_hash")
    attributes = [(key, name, json.dumps(getattr(row, name))) for key, row in trials for name in facts]
    timed = ("trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete")
    return {
        "trials": (timed, told),
        "trial_values": (("trial_id", "objective", "value", "value_type"), _values(trials)),
        "trial_params": (("trial_id", "param_name", "param_value", "distribution_json"), _params(results, trials)),
        "trial_user_attributes": (("trial_id", "key", "value_json"), attributes),
        "trial_system_attributes": (("trial_id", "key", "value_json"), violations),
    }


def _state(row: CandidateRow) -> str:
    if row.search_score is None:
        return "FAIL"
    return "COMPLETE" if row.stopped_after is None else "PRUNED"


def _values(trials: Iterable[tuple[int, CandidateRow]]) -> Iterator[Sequence[Any]]:
    for key, row in trials:
        if row.search_score is not None:
            for objective, value in enumerate(row.values or (row.search_score,)):
                yield key, objective, value, "FINITE"


def _params(results: Results, trials: Iterable[tuple[int, CandidateRow]]) -> Iterator[Sequence[Any]]:
    space = make_space(results.campaign, layers=results.layers)
    axes = {stage.name: stage.by_name for stage in space.stages}
    texts = {(stage.name, axis.name): distribution_json(axis) for stage in space.stages for axis in stage.axes}
    for key, row in trials:
        for name, value in row.params.items():
            yield key, name, _internal(axes[row.stage][name], value), texts[row.stage, name]


def distribution_json(axis: Axis) -> str:
    """What Optuna writes of `Stage.distributions`."""
    if axis.kind == "category":
        return json.dumps({"name": "CategoricalDistribution", "attributes": {"choices": axis.choices}})
    low, high = axis.ends
    if axis.kind == "int":
        whole = {"log": False, "step": 1, "low": low, "high": high}
        return json.dumps({"name": "IntDistribution", "attributes": whole})
    steps = {"step": 1 / axis.grid, "low": low / axis.grid, "high": high / axis.grid, "log": False}
    return json.dumps({"name": "FloatDistribution", "attributes": steps})


def _internal(axis: Axis, value: Value) -> float:
    """A number as it is; of a category its place among the choices."""
    return float(axis.choices.index(value) if axis.kind == "category" else value)


def _insert(connection: sqlite3.Connection, table: str, columns: Sequence[str], rows: Rows) -> None:
    marks = ", ".join("?" * len(columns))
    connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)
