"""What a run leaves for other tools, made anew from the rows: the item matrix as Parquet, and the Optuna mirror."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import NotWritten
from search import collector
from search.matrix import Labels, Matrix
from search.mirror import write_mirror
from search.results import Results, results_of
from search.run import Run
from search.whole_file import whole_file

if TYPE_CHECKING:
    import pyarrow

_LOG = logging.getLogger(__name__)


@collector.paused()
def export_run(run: Run) -> Results | None:
    """Write both files, each whole or not at all, and return what they were made of.

    One that cannot be written is told of, and ends nothing: the rows are there, and the next start makes it.
    """
    found = run.store.find(run.campaign.name)
    if found is None:
        return None
    results = results_of(run.store, found)
    for path, write in ((run.directory.scores, write_scores), (run.directory.mirror, write_mirror)):
        try:
            write(path, results)
        except NotWritten as error:
            _LOG.warning("%s", error.message)
    return results


def write_scores(path: Path, results: Results) -> None:
    """The item matrix in long form: candidate, label, stage, recipe_hash, split, task, item, measure, score.

    Rows whose `measure` is "score" are the scores; the others, which stand after them, hold that measure's value.
    """
    from pyarrow import parquet

    scores = _table(results, results.item_scores)
    # smallest and largest label: half of the time, and nobody looks them up
    numbers = ["candidate", "score"]
    with whole_file(path) as partial, parquet.ParquetWriter(partial, scores.schema, write_statistics=numbers) as writer:
        writer.write_table(scores)
        if len(results.item_measures):
            writer.write_table(_table(results, results.item_measures))


def _table(results: Results, matrix: Matrix) -> pyarrow.Table:
    import pyarrow

    rows = results.candidates
    by_candidate = {name: Labels.of(getattr(row, name) for row in rows) for name in ("label", "stage", "recipe_hash")}
    columns = {"candidate": pyarrow.array(matrix.candidates_N, pyarrow.int32())}
    columns |= {name: _coded(labels.taken(matrix.candidates_N)) for name, labels in by_candidate.items()}
    columns |= {"split": _coded(matrix.splits), "task": _coded(matrix.tasks)}
    columns |= {"item": _coded(Labels(matrix.items.names, matrix.items_N)), "measure": _coded(matrix.measures)}
    return pyarrow.table(columns | {"score": pyarrow.array(matrix.values_N, pyarrow.float64())})


def _coded(labels: Labels) -> pyarrow.DictionaryArray:
    import pyarrow

    return pyarrow.DictionaryArray.from_arrays(labels.codes_N, pyarrow.array(labels.names, pyarrow.string()))
