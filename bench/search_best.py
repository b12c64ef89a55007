"""The best known recipe of a family: `python -m bench.search_best KIND SEED` writes it into bench/search_best.json.

A campaign of 3000 candidates, each on 600 items, a third of all search items, taken in turn so that none is overfitted;
population 30, the mean of the last distribution. It was run, and its result committed, before any comparison.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from bench.families import data_directory
from bench.search_evaluator import FastEvaluator, ItemCache
from bench.search_families import HOLDOUT_ITEMS, Family, campaign
from bench.search_runs import run_ours

FILE = Path(__file__).with_name("search_best.json")
CANDIDATES = 3000
ITEMS = 600


def open_evaluator(family: Family) -> FastEvaluator:
    """The family's evaluator with its share of the cache."""
    cache = ItemCache(data_directory() / "search" / f"{family.name}.sqlite")
    return FastEvaluator(family, campaign(family, seed=0, items=10**6), cache=cache)


def parents(family: Family) -> dict[str, dict[str, Any]]:
    """Recipes that give base and specialists as they are."""
    return {
        name: {
            "merge_method": "passthrough",
            "models": [{"model": str(family.folder / "models" / name)}],
            "dtype": "float32",
        }
        for name in ("base", *family.skills)
    }


def main() -> None:
    """Run, measure on the holdout, write."""
    kind, seed = sys.argv[1], int(sys.argv[2])
    family = Family(kind, seed).make()
    evaluator = open_evaluator(family)
    holdout = evaluator.items("holdout", HOLDOUT_ITEMS)
    setup = campaign(
        family,
        seed=9_000,
        items=10**9,
        items_={"window": {0: ITEMS}, "block_size": ITEMS},
        budget={"candidates": CANDIDATES},
    )
    started = time.process_time()
    choices = run_ours(setup, evaluator)
    by_parent = {name: round(evaluator.mean(recipe, holdout), 4) for name, recipe in parents(family).items()}
    marks = [choices[round(index * (len(choices) - 1) / 8)] for index in range(9)]
    found = {
        "score": round(evaluator.mean(choices[-1].recipe, holdout), 4),
        "best_parent": max(by_parent.values()),
        "parents": by_parent,
        "holdout_items": len(holdout),
        "item_evaluations": choices[-1].spent,
        "way": {str(mark.spent): round(evaluator.mean(mark.recipe, holdout), 4) for mark in marks},
        "cpu_s": round(time.process_time() - started),
        "recipe": choices[-1].recipe,
    }
    evaluator.close()
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    FILE.write_text(json.dumps({**known, family.name: found}, indent=1) + "\n")
    print(json.dumps({name: value for name, value in found.items() if name != "recipe"}, indent=1))


if __name__ == "__main__":
    main()
