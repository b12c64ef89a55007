"""A finished campaign over real models: two tiny parents, a winner that is their average, scores that a function gave.

Selection scores come from the real evaluator, block by block, as a campaign's do; the holdout's are made up, so that
the winner wins.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tiny_tasks import make_model, make_tokenizer

from engine import digest
from engine.models.checkpoint import open_checkpoints
from engine.planning.planner import make_plan
from engine.recipes.reader import parse_recipe
from search.campaign_file import Campaign, parse_campaign
from search.evaluators.resident import ResidentEvaluator, open_evaluator
from search.judging.scores import Entrant, judge
from search.matrix import ItemScore, Matrix
from search.pools import make_pools
from search.ports import BlockResult, Work
from search.results import CandidateRow, HoldoutAccess, Results
from search.run import RunDirectory

CARDS = {"alpha": "license: apache-2.0\nlanguage: en\n", "beta": "license: mit\nlanguage: [en]\n"}
SPLITS = {"search": 4, "selection": 8, "holdout": 8}


@dataclass(frozen=True)
class FinishedRun:
    """`results` of the campaign in `directory`; `evaluator` is the one that scored it; `models` by name."""

    results: Results
    directory: RunDirectory
    evaluator: ResidentEvaluator
    models: dict[str, Path]


def confidence(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> list[float]:
    """A score that shows every bit of the weights: the probability of the likeliest next token."""
    tokens = [tokenizer.encode(row["text"]) for row in rows]
    with torch.no_grad():
        return [float(model(torch.tensor([ids])).logits[0, -1].softmax(-1).max()) for ids in tokens]


def make_finished_run(root: Path) -> FinishedRun:
    """Make models, tasks and results in `root`, which must be empty."""
    torch.set_num_threads(1)
    models = {name: _save_model(root / "models" / name, seed) for seed, name in enumerate(CARDS)}
    for split, count in SPLITS.items():
        rows = [{"id": f"{n:02d}", "text": split[n % len(split) :] + "abcdefgh"[n]} for n in range(count)]
        (root / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    campaign = _campaign(root, models)
    directory = RunDirectory(root / "run")
    directory.root.mkdir()
    evaluator = open_evaluator(campaign, audit=directory.audit)
    rows = _candidates(models)
    scores = []
    for row in rows:
        weights, mine = _scored(row, evaluator, campaign)
        scores += mine
        rows[row.number] = replace(row, weights_digest=weights, selection_score=sum(s.score for s in mine) / len(mine))
    return FinishedRun(_results(campaign, rows, scores, evaluator), directory, evaluator, models)


def _save_model(folder: Path, seed: int) -> Path:
    tokenizer = make_tokenizer()
    make_model(seed, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(f"---\n{CARDS[folder.name]}---\n# {folder.name}\n")
    return folder


def _campaign(root: Path, models: dict[str, Path]) -> Campaign:
    splits = {split: f"{split}.jsonl" for split in SPLITS}
    data = {
        "name": "tiny",
        "base_model": str(models["alpha"]),
        "sources": [str(models["beta"])],
        "space": {"parameters": {"weight": {"low": 0, "high": 1, "start": 0.5}}, "stages": [{"name": "global"}]},
        "tasks": [{"name": "letters", "metric": "finished_run:confidence", **splits}],
        "include_path": str(root),
        "items": {"block_size": 3},
        "budget": {"items": 1000},
        "store": "postgresql://someone:secret@database.example/campaigns",
    }
    return parse_campaign(data, origin="tiny.yml")


def recipe_of(models: dict[str, Path], weight: float) -> dict[str, Any]:
    """alpha + weight · (beta − alpha)."""
    source = {"model": str(models["beta"]), "parameters": {"weight": weight}}
    return {"merge_method": "task_arithmetic", "base_model": str(models["alpha"]), "models": [source]}


def _candidates(models: dict[str, Path]) -> list[CandidateRow]:
    made = []
    for number, (label, weight) in enumerate({"parent beta": 1.0, "mean of global": 0.5}.items()):
        recipe = recipe_of(models, weight)
        parsed = parse_recipe(recipe)
        checkpoints = open_checkpoints(parsed.models)
        row = CandidateRow(
            number=number,
            label=label,
            stage="",
            origin="baseline" if number == 0 else "mean",
            cohort=None,
            params={},
            recipe=recipe,
            recipe_hash=digest.recipe_hash(make_plan(parsed, checkpoints), checkpoints),
            weights_digest=None,
            search_score=None,
            estimate=None,
            selection_score=None,
            holdout_score=float(number),
            order=number,
            failure=None,
        )
        made.append(row)
    return made


def _scored(row: CandidateRow, evaluator: ResidentEvaluator, campaign: Campaign) -> tuple[str, list[ItemScore]]:
    pools = make_pools(campaign, evaluator.inventory())
    weights, scores = "", []
    for block, items in enumerate(pools.blocks(pools.all("selection"))):
        lease = f"{row.number}-{block}"
        done = evaluator.evaluate(Work(row.number, row.recipe, row.recipe_hash, "selection", block, items, lease, 1, 1))
        assert isinstance(done, BlockResult), done
        weights = done.weights_digest
        scores += [ItemScore(row.number, "selection", "letters", i, s, lease) for i, s in done.scores.items()]
    return weights, scores


def _results(
    campaign: Campaign, rows: list[CandidateRow], scores: list[ItemScore], evaluator: ResidentEvaluator
) -> Results:
    items = [item.key for item in evaluator.inventory().items["holdout"]]
    met = [Entrant(row.number, row.label, row.recipe_hash, dict.fromkeys(items, float(row.number))) for row in rows]
    task_of = dict.fromkeys(items, "letters")
    holdout = [ItemScore(e.number, "holdout", "letters", i, s, "h") for e in met for i, s in e.scores.items()]
    return Results(
        campaign=campaign,
        phase="done",
        layers=2,
        candidates=tuple(rows),
        item_scores=Matrix.of([*scores, *holdout]),
        ledger=tuple(HoldoutAccess(row.number, "winner", len(items), 1, 1e9) for row in rows),
        winner=1,
        verdict=judge(met[1], met[:1], task_of=task_of, weights={"letters": 1.0}, seed=0),
        items_spent={"search": 0, "selection": 16, "holdout": 16},
        seconds=12.0,
        eval_key=evaluator.inventory().key,
        items_digest="ef" * 32,
    )
