"""The shipped family through lm-eval: generated answers score what teacher forcing said when the family was trained."""

import json
from pathlib import Path

import pytest
from device import DEVICE

from search.evaluators.contract import Places
from search.evaluators.entries import EvaluatorEntry, TaskEntry
from search.evaluators.lm_eval import LmEvalScorer
from search.evaluators.resident import ResidentEvaluator

DEMO = Path(__file__).parents[3] / "configs" / "demo"
SKILLS = ("letters", "numerals", "plurals")
TOLERANCE = 0.02  # 6 of 300 items: near ties fall the other way with a cache, and on other CPUs


@pytest.fixture(scope="module")
def scorer() -> LmEvalScorer:
    splits = ("search", "selection", "holdout")
    entries = [TaskEntry(name=s, **{split: f"demo_{s}_{split}" for split in splits}) for s in SKILLS]
    return LmEvalScorer(entries, Places(str(DEMO / "tasks")), batch_size=150)


@pytest.mark.parametrize("name", ["base", "numerals"])
def test_generated_answers_score_what_the_family_is_shipped_with(scorer, name, tmp_path):
    evaluator = ResidentEvaluator(scorer, EvaluatorEntry(threads=1, device=DEVICE), audit=tmp_path / "audit.jsonl")
    expected = json.loads((DEMO / "scores.json").read_text())["scores"][name]
    blocks = [[item.key for item in scorer.items()["selection"] if item.task == skill] for skill in SKILLS]
    scores = evaluator.rescore(DEMO / "models" / name, blocks)
    for skill, block in zip(SKILLS, blocks, strict=True):
        assert len(block) == 300
        assert sum(scores[key] for key in block) / 300 == pytest.approx(expected[skill]["selection"], abs=TOLERANCE)
