"""What a run leaves for other tools, made anew from the rows: the item matrix as Parquet, and the Optuna mirror."""

from __future__ import annotations

from pathlib import Path

from search import collector
from search.mirror import write_mirror
from search.ports import SCORE
from search.results import ItemMeasure, ItemScore, Results, results_of
from search.run import Run
from search.whole_file import whole_file


@collector.paused()
def export_run(run: Run) -> Results | None:
    """Write both files, each whole or not at all, and return what they were made of."""
    found = run.store.find(run.campaign.name)
    if found is None:
        return None
    results = results_of(run.store, found)
    write_scores(run.directory.scores, results)
    write_mirror(run.directory.mirror, results)
    return results


def write_scores(path: Path, results: Results) -> None:
    """The item matrix in long form: candidate, label, stage, recipe_hash, split, task, item, measure, score.

    Rows whose `measure` is "score" are the scores; the others hold that measure's value.
    """
    import pyarrow
    from pyarrow import parquet

    entries: list[ItemScore | ItemMeasure] = [*results.item_scores, *results.item_measures]
    rows = [(results.candidate(entry.candidate), entry) for entry in entries]
    measures = [(SCORE, e.score) if isinstance(e, ItemScore) else (e.measure, e.value) for e in entries]
    table = pyarrow.table(
        {
            "candidate": pyarrow.array([entry.candidate for _, entry in rows], pyarrow.int32()),
            "label": pyarrow.array([row.label for row, _ in rows]).dictionary_encode(),
            "stage": pyarrow.array([row.stage for row, _ in rows]).dictionary_encode(),
            "recipe_hash": pyarrow.array([row.recipe_hash for row, _ in rows]).dictionary_encode(),
            "split": pyarrow.array([entry.split for _, entry in rows]).dictionary_encode(),
            "task": pyarrow.array([entry.task for _, entry in rows]).dictionary_encode(),
            "item": pyarrow.array([entry.item for _, entry in rows], pyarrow.string()),
            "measure": pyarrow.array([measure for measure, _ in measures]).dictionary_encode(),
            "score": pyarrow.array([value for _, value in measures], pyarrow.float64()),
        }
    )
    with whole_file(path) as partial:
        parquet.write_table(table, partial)
