"""The matrix of candidates and items is what a loop over rows would find."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from search.matrix import ItemScore, Matrix, tell
from search.ports import SCORE, SPLITS
from search.store.store import ScoreColumns

MINE, OTHER = 7, 3
ITEMS = [
    {"item": f"{split}/{n}", "split": split, "task": f"task {n % 2}", "score_key": f"key {split} {min(n, 4)}"}
    for split in SPLITS
    for n in (3, 0, 5, 4, 1, 2)  # 4 and 5 are one question under two names
]


def made_columns(rng: random.Random, recipes: list[str]) -> ScoreColumns:
    keys = [*{item["score_key"] for item in ITEMS}, "of another campaign's item"]
    places = [(recipe, key, measure) for recipe in recipes for key in keys for measure in (SCORE, "tokens", "acc")]
    rng.shuffle(places)
    rows = [(*place, rng.random(), rng.choice((MINE, OTHER)), f"{rng.randrange(3)}") for place in places[::2]]
    return ScoreColumns(*zip(*rows, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_the_matrix_is_what_a_loop_over_the_rows_finds(seed: int) -> None:
    rng = random.Random(seed)
    recipes = ["b", "a", "never scored", "b"]
    columns = made_columns(rng, ["a", "b", "c"])
    met = [(n, split) for n in range(4) for split in SPLITS if rng.random() < 0.7]
    told = tell(columns, campaign=MINE, items=ITEMS, recipes=recipes, met=met)
    expected, spent, paid = [], Counter(), Counter()
    for recipe, key, measure, value, payer, lease in zip(*columns, strict=True):
        for item in (item for item in ITEMS if item["score_key"] == key):
            called = lease if payer == MINE else f"{payer}/{lease}"
            facts = (item["split"], item["task"], item["item"], value, called, measure)
            expected += [
                ItemScore(n, *facts) for n, mine in enumerate(recipes) if mine == recipe and (n, item["split"]) in met
            ]
            if payer == MINE and measure == SCORE:
                spent[item["split"]] += 1
                paid[lease] += 1
    expected.sort(key=lambda row: (row.candidate, row.item, row.measure))
    assert list(told.scores) == [row for row in expected if row.measure == SCORE]
    assert list(told.measures) == [row for row in expected if row.measure != SCORE]
    assert told.spent == {split: spent[split] for split in SPLITS}
    assert +told.paid == paid


def test_nothing_scored_is_an_empty_matrix() -> None:
    for recipes in ([], ["a"]):
        told = tell(ScoreColumns(), campaign=MINE, items=ITEMS, recipes=recipes, met=[])
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
