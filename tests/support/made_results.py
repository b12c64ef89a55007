"""A made-up campaign, finished: three sources, two stages, a winner that is better by construction."""

import random
from dataclasses import replace
from typing import Any

from search.campaign_file import Campaign, parse_campaign
from search.effort import Attempt, Effort
from search.judging.scores import Entrant, judge
from search.matrix import ItemScore, Matrix
from search.results import CandidateRow, HoldoutAccess, Results

TASKS = ("letters", "numerals", "plurals")
LAYERS = 3
HOLDOUT = 400
MODULES = ("attention", "mlp")


def make_campaign(**changes: Any) -> Campaign:
    weight = {"low": 0.0, "high": 1.5, "start": 0.5}
    stages = [{"name": "global"}, {"name": "layers", "by": "module_gradient", "knots": LAYERS}]
    data: dict[str, Any] = {
        "name": "demo",
        "base_model": "family/base",
        "sources": [f"family/{task}" for task in TASKS],
        "space": {"parameters": {"weight": weight}, "stages": stages},
        "tasks": [{"name": t, "search": f"{t}_s", "selection": f"{t}_v", "holdout": f"{t}_h"} for t in TASKS],
        "budget": {"items": 5000},
        "seed": 7,
    }
    return parse_campaign(data | changes, origin="demo.yaml")


def global_recipe(params: dict[str, float]) -> dict[str, Any]:
    models = [{"model": f"family/{t}", "parameters": {"weight": params[f"weight/{t}/all"]}} for t in TASKS]
    return {"merge_method": "task_arithmetic", "base_model": "family/base", "models": models, "dtype": "bfloat16"}


def layered_recipe(params: dict[str, float]) -> dict[str, Any]:
    models = []
    for task in TASKS:
        values = {m: [params[f"weight/{task}/{m}/{n}"] for n in range(LAYERS)] for m in MODULES}
        filters = {"attention": "self_attn", "mlp": "mlp"}
        choices = [{"filter": filters[m], "value": values[m]} for m in MODULES]
        choices.append({"value": params[f"weight/{task}/rest"]})
        models.append({"model": f"family/{task}", "parameters": {"weight": choices}})
    return {"merge_method": "task_arithmetic", "base_model": "family/base", "models": models, "dtype": "bfloat16"}


def _row(number: int, label: str, **facts: Any) -> CandidateRow:
    blank = {
        "stage": "",
        "origin": "baseline",
        "cohort": None,
        "order": number,
        "params": {},
        "recipe": {},
        "recipe_hash": f"{number:064x}",
    }
    scores = dict.fromkeys(
        ("weights_digest", "search_score", "estimate", "selection_score", "holdout_score", "failure")
    )
    return CandidateRow(number=number, label=label, **{**blank, **scores, **facts})


def _candidates(rng: random.Random) -> list[CandidateRow]:
    parents = [f"parent {task}" for task in TASKS]
    labels = [
        "base",
        *parents,
        "uniform",
        *(f"task_arithmetic {scale}" for scale in (0.3, 0.5, 0.7)),
        "ties",
        "dare_ties",
    ]
    rows = [_row(n, label, estimate=0.35 + 0.03 * n) for n, label in enumerate(labels)]
    for number in range(len(rows), len(rows) + 25):
        params = {f"weight/{task}/all": rng.uniform(0, 1.5) for task in TASKS}
        value = 0.7 - 0.3 * sum((value - 0.8) ** 2 for value in params.values()) + rng.gauss(0, 0.03)
        facts = {"stage": "global", "origin": "cma", "params": params, "recipe": global_recipe(params)}
        rows.append(_row(number, f"cma {number}", estimate=value, search_score=value, **facts))
    for number in range(len(rows), len(rows) + 40):
        spread = 0.5 * 0.96 ** (number - 35)
        params = {
            f"weight/{t}/{m}/{n}": rng.gauss(0.8 - 0.2 * n, spread)
            for t in TASKS
            for m in MODULES
            for n in range(LAYERS)
        }
        params |= {f"weight/{task}/rest": rng.gauss(0.4, spread) for task in TASKS}
        params = {name: min(1.5, max(0.0, value)) for name, value in params.items()}
        value = 0.85 - 0.02 * spread - 0.1 * abs(params["weight/letters/mlp/1"] - 0.6) + rng.gauss(0, 0.02)
        facts = {"stage": "layers", "origin": "cma", "params": params, "recipe": layered_recipe(params)}
        rows.append(_row(number, f"cma {number}", estimate=value, search_score=value, **facts))
    rows.append(_row(len(rows), "broken", stage="layers", origin="cma", failure="an Inf in tensor 'lm_head.weight'"))
    fault = "quarantined: it failed on node-1 (out of memory) and on node-2 (out of memory)"
    rows.append(_row(len(rows), "too large", stage="layers", origin="cma", failure=fault))
    rows[40] = replace(rows[40], stopped_after=60)
    rows[41] = replace(rows[41], recipe_hash=rows[39].recipe_hash)
    return rows


def _efforts(rows: list[CandidateRow]) -> tuple[Effort, ...]:
    """Windows of 75 items; 40 was stopped after 60, and 41 is 39 again."""
    found = []
    for row in rows:
        state = "lost" if row.failure else "stopped" if row.stopped_after else "scored"
        seen = 0 if row.failure else row.stopped_after or 75
        found.append(Effort(row.number, "search", state, 75, seen, 0 if row.number == 41 else seen, 1.5))
    return tuple(found)


def make_results(*, significant: bool = True, seed: int = 1, **changes: Any) -> Results:
    """A finished campaign; without `significant` the winner is no better than the best global candidate."""
    rng = random.Random(seed)
    rows = _candidates(rng)
    best = max((row for row in rows if row.stage == "layers" and row.estimate), key=lambda row: row.estimate or 0)
    rival = max((row for row in rows if row.stage == "global"), key=lambda row: row.estimate or 0)
    entrants = [best, rival, *rows[:10]]
    skill = {row.number: 0.3 + 0.03 * place for place, row in enumerate(reversed(entrants))}
    skill[rival.number] = 0.8
    skill[best.number] = 0.9 if significant else 0.8
    items = [(task, f"{task}_h/{n:04d}") for task in TASKS for n in range(HOLDOUT)]
    scores = {row.number: {key: float(rng.random() < skill[row.number]) for _, key in items} for row in entrants}
    task_of = {key: task for task, key in items}
    weights = dict.fromkeys(TASKS, 1 / len(TASKS))
    met = [Entrant(row.number, row.label, row.recipe_hash, scores[row.number]) for row in entrants]
    verdict = judge(met[0], met[1:], task_of=task_of, weights=weights, seed=seed)
    for row in entrants:
        mean = sum(scores[row.number].values()) / len(items)
        chosen = {"selection_score": 0.88, "weights_digest": "ab" * 32} if row is best else {}
        rows[row.number] = replace(row, holdout_score=mean, **chosen)
    facts = {
        "campaign": make_campaign(),
        "phase": "done",
        "candidates": tuple(rows),
        "item_scores": Matrix.of(
            ItemScore(n, "holdout", task_of[k], k, s) for n, by in scores.items() for k, s in by.items()
        ),
        "ledger": tuple(HoldoutAccess(row.number, "comparator", len(items), 1, 1e9) for row in entrants),
        "winner": best.number,
        "verdict": verdict,
        "items_spent": {"search": 5_012, "selection": 900, "holdout": len(items) * len(entrants)},
        "seconds": 83.4,
        "layers": LAYERS,
        "eval_key": "cd" * 32,
        "efforts": _efforts(rows),
        "attempts": (Attempt(70, "search", "node-1", "failed", "a passing fault"),),
    }
    return Results(**{**facts, **changes})
