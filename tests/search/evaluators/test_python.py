"""A user's own function as a scorer."""

import json
from pathlib import Path

import pytest

from engine.errors import CampaignError, EvaluationError
from search.campaign_file import TaskEntry
from search.evaluators.contract import Subject
from search.evaluators.python import PythonScorer, is_python
from search.ports import SPLITS

SUBJECT = Subject("model", "tokenizer")


def half_of(model, tokenizer, rows):
    assert (model, tokenizer) == ("model", "tokenizer")
    return [row["n"] / 2 for row in rows]


def writes_into_rows(model, tokenizer, rows):
    for row in rows:
        row["n"] += 1
    return [row["n"] for row in rows]


def one_too_few(model, tokenizer, rows):
    return [0.0] * (len(rows) - 1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """JSONL files of every split, and this module importable under a name of its own."""
    for place, split in enumerate(SPLITS):
        rows = [{"id": f"{split}-{n}", "n": n + 10 * place} for n in range(4)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "user_scores.py").write_text(Path(__file__).read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def entry(function: str = "half_of", **changes: str) -> TaskEntry:
    files = {split: f"{split}.jsonl" for split in SPLITS}
    return TaskEntry(**{"name": "numbers", "metric": f"user_scores:{function}", **files} | changes)


def test_each_item_gets_the_number_the_function_returns_for_its_row(folder):
    scorer = PythonScorer([entry()], include_path=str(folder))
    keys = [item.key for item in scorer.items()["selection"]]
    assert keys == [f"numbers/selection/selection-{n}" for n in range(4)]
    assert scorer.score(SUBJECT, keys[::-1]) == dict(zip(keys, [5.0, 5.5, 6.0, 6.5], strict=True))


def test_two_functions_share_a_block(folder):
    entries = [entry(), entry("writes_into_rows", name="more")]
    scorer = PythonScorer(entries, include_path=str(folder))
    keys = [item.key for item in scorer.items()["search"]]
    assert list(scorer.score(SUBJECT, keys).values()) == [0.0, 0.5, 1.0, 1.5, 1, 2, 3, 4]


def test_a_function_that_writes_into_its_rows_scores_the_same_twice(folder):
    scorer = PythonScorer([entry("writes_into_rows")], include_path=str(folder))
    keys = [item.key for item in scorer.items()["search"]]
    assert scorer.score(SUBJECT, keys) == scorer.score(SUBJECT, keys)


def test_a_function_that_returns_too_few_scores_is_an_error_that_counts_them(folder):
    scorer = PythonScorer([entry("one_too_few")], include_path=str(folder))
    with pytest.raises(EvaluationError, match="returned 3 scores for 4 items"):
        scorer.score(SUBJECT, [item.key for item in scorer.items()["search"]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "user_scores:half_off"}, "no function 'half_off', did you mean 'half_of'"),
        ({"metric": "user_score:half_of"}, "task 'numbers', metric: cannot import 'user_score'"),
        ({"search": "absent.jsonl"}, "cannot read .*absent.jsonl: No such file"),
        ({"search": "broken.jsonl"}, "broken.jsonl, line 2 is not JSON"),
        ({"search": "list.jsonl"}, "list.jsonl, line 1 is a list, want an object"),
        ({"search": "twice.jsonl"}, "twice.jsonl: two rows with id '1'"),
    ],
)
def test_what_cannot_be_used_is_refused_by_file_and_name(folder, changes, message):
    (folder / "broken.jsonl").write_text('{"n": 1}\n{"n": \n')
    (folder / "list.jsonl").write_text("[1]\n")
    (folder / "twice.jsonl").write_text('{"id": 1, "n": 1}\n{"id": 1, "n": 2}\n')
    with pytest.raises(CampaignError, match=message):
        PythonScorer([entry(**changes)], include_path=str(folder))


def test_a_metric_with_a_colon_is_a_python_function():
    assert is_python(entry())
    assert not is_python(entry(metric="exact_match,strict-match"))
