"""What every scorer promises, run over lm-eval tasks, a user's function and both together."""

import json
import math
import os
from pathlib import Path

import pytest
from tiny_tasks import Bench

from engine.errors import CampaignError, EvaluationError
from search.campaign_file import Campaign, parse_campaign
from search.evaluators.contract import Scored, Suite, content_digest, digest, evaluation_key, row_id
from search.evaluators.entries import TaskEntry
from search.evaluators.opening import open_scorer
from search.ports import SPLITS, Item

USER_CODE = """
def first_logit(model, tokenizer, rows):
    import torch
    with torch.no_grad():
        return [float(model(torch.tensor([tokenizer.encode(r["question"])])).logits[0, -1, 5]) for r in rows]
"""


def campaign(bench: Bench, entries: list[TaskEntry]) -> Campaign:
    stages = [{"name": "all"}]
    space = {"parameters": {"weight": {"low": 0, "high": 1, "start": 0.5}}, "stages": stages}
    data = {"name": "c", "base_model": "base", "sources": ["a", "b"], "space": space, "budget": {"items": 10}}
    tasks = [entry.model_dump() for entry in entries]
    return parse_campaign({**data, "tasks": tasks, "include_path": str(bench.folder)}, origin="c.yaml")


@pytest.fixture
def user_entry(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskEntry:
    (tmp_path / "contract_scores.py").write_text(USER_CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    files = {split: f"data/spell_{split}.jsonl" for split in SPLITS}
    return TaskEntry(name="logit", metric="contract_scores:first_logit", **files)


@pytest.fixture(params=["lm_eval", "python", "both"])
def scorer(request: pytest.FixtureRequest, bench: Bench, user_entry: TaskEntry) -> Suite:
    chosen = {"lm_eval": [*bench.entries], "python": [user_entry], "both": [user_entry, *bench.entries]}
    return open_scorer(campaign(bench, chosen[request.param]))


def test_a_block_gets_one_finite_number_per_item_and_nothing_else(bench, scorer):
    keys = [item.key for item in scorer.items()["search"]]
    scores = scorer.score(bench.a, keys[::3]).scores
    assert sorted(scores) == sorted(keys[::3])
    assert all(math.isfinite(score) for score in scores.values())


def test_a_block_scores_the_same_whatever_was_scored_before_and_in_whatever_order(bench, scorer):
    keys = [item.key for item in scorer.items()["search"]]
    first = scorer.score(bench.a, keys)
    scorer.score(bench.b, keys[1:])
    assert scorer.score(bench.a, keys[::-1]) == first


def test_what_is_measured_is_known_before_scoring_or_after_a_rehearsal(bench, scorer):
    assert scorer.measures() is None or not scorer.needs_rehearsal
    scorer.rehearse(bench.a)
    measured = scorer.score(bench.a, [item.key for item in scorer.items()["search"]]).measures
    assert scorer.measures() == measured.keys()


def test_keys_are_unique_over_splits_and_the_same_when_built_again(bench, scorer):
    keys = [item.key for split in SPLITS for item in scorer.items()[split]]
    assert len(set(keys)) == len(keys)
    assert evaluation_key(scorer, {}) == evaluation_key(scorer, {})


def test_a_scorer_built_in_another_place_has_the_same_key(bench, user_entry, tmp_path, monkeypatch):
    entries = [user_entry, *bench.entries]
    first = evaluation_key(open_scorer(campaign(bench, entries)), {"threads": 1})
    monkeypatch.chdir(tmp_path)
    assert evaluation_key(open_scorer(campaign(bench, entries)), {"threads": 1}) == first
    assert evaluation_key(open_scorer(campaign(bench, entries)), {"threads": 2}) != first


def test_an_unknown_item_is_an_error(bench, scorer):
    with pytest.raises(EvaluationError, match="'nowhere/1' is in no task"):
        scorer.score(bench.a, ["nowhere/1"])


class Constant:
    """A scorer with one item per split, always scored alike."""

    def __init__(self, score: float, name: str = "c") -> None:
        self._score, self._name = score, name

    def items(self):
        return {split: (Item(f"{self._name}/{split}", self._name, split),) for split in SPLITS}

    def facts(self):
        return {}

    def texts(self):
        return {}

    def notes(self):
        return []

    def score(self, subject, keys):
        return Scored(dict.fromkeys(keys, self._score))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1.1e18, -1e200])
def test_a_score_that_is_no_finite_number_is_an_error_that_names_task_and_item(bench, bad):
    with pytest.raises(EvaluationError, match=r"task '\w+': item 'c/search' has score"):
        Suite([Constant(bad)]).score(bench.a, ["c/search"])


def test_a_scorer_that_changes_the_working_directory_does_not_move_the_run(tmp_path, monkeypatch):
    class Moves(Constant):
        def score(self, subject, keys):
            os.chdir("/")
            return super().score(subject, keys)

    monkeypatch.chdir(tmp_path)
    Suite([Moves(1.0)]).score(None, ["c/search"])
    assert Path.cwd() == tmp_path


def test_a_missing_score_is_an_error(bench):
    silent = Constant(1.0)
    silent.score = lambda subject, keys: Scored({})
    with pytest.raises(EvaluationError, match="item 'c/search': no score came back"):
        Suite([silent]).score(bench.a, ["c/search"])


def test_one_item_in_two_tasks_is_refused():
    with pytest.raises(CampaignError, match="'c/search' occurs twice"):
        Suite([Constant(0.0), Constant(1.0)])


def test_one_lm_eval_task_for_two_splits_is_refused(bench):
    entry = bench.entries[0].model_copy(update={"holdout": "spell_search"})
    with pytest.raises(CampaignError, match="holdout is the same task as search"):
        open_scorer(campaign(bench, [entry]))


def test_content_is_what_is_asked_whatever_the_row_is_called():
    row = {"id": "x", "question": "2+2", "answer": "4"}
    assert content_digest(row) == content_digest({"answer": "4", "question": "2+2", "id": "y"})
    assert content_digest(row) != content_digest(row | {"answer": "5"})
    assert content_digest(row) == digest(json.loads('{"answer":"4","question":"2+2"}'))


def test_a_row_is_named_by_its_id_else_by_its_place():
    assert [row_id({"id": 0}, 5), row_id({"id": "q"}, 5), row_id({"id": None}, 5), row_id({}, 5)] == [
        "0",
        "q",
        "5",
        "5",
    ]


def test_a_digest_of_functions_is_their_source_and_no_address():
    assert digest({"f": row_id}) == digest({"f": row_id}) != digest({"f": content_digest})
    assert digest({"f": len}) == digest({"f": "builtins.len"})
