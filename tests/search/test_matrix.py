"""The matrix of candidates and items is what a loop over rows would find."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from search.matrix import ItemScore, Matrix, tell
from search.ports import SCORE, SPLITS
from search.store.blocks import BlockScores

MINE, OTHER = 7, 3
ITEMS = [
    {"item": f"{split}/{n}", "split": split, "task": f"task {n % 2}", "score_key": f"key {split} {min(n, 4)}"}
    for split in SPLITS
    for n in (3, 0, 5, 4, 1, 2)  # 4 and 5 are one question under two names
]


def made_scores(rng: random.Random, recipes: list[str]) -> Iterator[BlockScores]:
    """About half of all recipes, keys and measures, in blocks of any size."""
    keys = [*{item["score_key"] for item in ITEMS}, "of another campaign's item"]
    for recipe, measure in product(recipes, (SCORE, "tokens", "acc")):
        parts = defaultdict(dict)
        for key in keys:
            parts[rng.randrange(6)][key] = ("as another calls it", rng.random())
        for found in [*parts.values()][:3]:
            made = BlockScores.of(recipe, found, lease=f"{rng.randrange(3)}", measure=measure)
            yield replace(made, campaign=rng.choice((MINE, OTHER)))


@pytest.mark.parametrize("seed", range(5))
def test_the_matrix_is_what_a_loop_over_the_rows_finds(seed: int) -> None:
    rng = random.Random(seed)
    recipes = ["b", "a", "never scored", "b"]
    scores = list(made_scores(rng, ["a", "b", "c"]))
    rng.shuffle(scores)
    met = [(n, split) for n in range(4) for split in SPLITS if rng.random() < 0.7]
    told = tell(scores, campaign=MINE, items=ITEMS, recipes=recipes, met=met)
    expected, spent, paid = [], Counter(), Counter()
    pairs = [(entry, *pair) for entry in scores for pair in entry.found.items()]
    for entry, key, (_, value) in pairs:
        for item in (item for item in ITEMS if item["score_key"] == key):
            called = entry.lease if entry.campaign == MINE else f"{entry.campaign}/{entry.lease}"
            facts = (item["split"], item["task"], item["item"], value, called, entry.measure)
            mine = [n for n, recipe in enumerate(recipes) if recipe == entry.recipe_hash and (n, item["split"]) in met]
            expected += [ItemScore(n, *facts) for n in mine]
            if entry.campaign == MINE and entry.measure == SCORE:
                spent[item["split"]] += 1
                paid[entry.lease] += 1
    expected.sort(key=lambda row: (row.candidate, row.item, row.measure))
    assert list(told.scores) == [row for row in expected if row.measure == SCORE]
    assert list(told.measures) == [row for row in expected if row.measure != SCORE]
    assert told.spent == {split: spent[split] for split in SPLITS}
    assert +told.paid == paid


def test_nothing_scored_is_an_empty_matrix() -> None:
    for recipes in ([], ["a"]):
        told = tell([], campaign=MINE, items=ITEMS, recipes=recipes, met=[])
        assert list(told.scores) == list(told.measures) == list(Matrix.of()) == []
        assert told.spent == dict.fromkeys(SPLITS, 0)
        assert told.scores.on("holdout").by_candidate() == {}


def test_rows_are_found_by_candidate_split_and_task() -> None:
    rows = [
        ItemScore(n, split, task, f"{split} {task}", n + 0.5, lease=f"lease {n}")
        for n in (2, 0)
        for split in ("search", "holdout")
        for task in ("b", "a")
    ]
    matrix = Matrix.of(rows)
    assert list(matrix) == rows
    assert len(matrix) == 8
    assert list(matrix.of_candidate(2).on("holdout")) == [r for r in rows if (r.candidate, r.split) == (2, "holdout")]
    for number, part in matrix.on("search").by_candidate().items():
        assert {task: values.tolist() for task, values in part.by_task().items()} == {
            "b": [number + 0.5],
            "a": [number + 0.5],
        }
    assert list(matrix.on("selection")) == []
