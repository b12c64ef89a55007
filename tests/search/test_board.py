"""Scores belong to recipes: what is known or on its way is never asked for again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulated import make_campaign, make_inventory

from search.board import Assessment, Board
from search.pools import make_pools


@pytest.fixture
def board() -> Board:
    campaign = make_campaign(items={"window": {0: 15}, "block_size": 6})
    return Board(make_pools(campaign, make_inventory()))


def assessment(board: Board, number: int, recipe: str = "r", start: int = 0) -> Assessment:
    return Assessment(number, "search", recipe, board.pools.window(start, 15))


def test_the_units_of_an_assessment_are_its_blocks(board: Board) -> None:
    entry = assessment(board, 0)
    units = board.open(entry, out=set())
    assert [unit.items for unit in units] == list(board.pools.blocks(entry.items))
    assert [unit.block for unit in units] == [0, 1, 2]


def test_an_assessment_is_complete_when_its_last_block_is_in(board: Board) -> None:
    entry = assessment(board, 0)
    units = board.open(entry, out=set())
    for unit in units[:-1]:
        board.take("r", dict.fromkeys(unit.items, 1.0))
        assert board.complete("r") == []
    board.take("r", dict.fromkeys(units[-1].items, 0.0))
    assert board.complete("r") == [entry]
    assert board.complete("r") == []


def test_a_known_recipe_needs_no_work_on_the_same_items(board: Board) -> None:
    first, twin = assessment(board, 0), assessment(board, 1)
    for unit in board.open(first, out=set()):
        board.take("r", dict.fromkeys(unit.items, 1.0))
    board.complete("r")
    assert board.open(twin, out=set()) == []
    assert board.complete("r") == [twin]


def test_a_twin_of_a_running_recipe_waits_for_the_same_scores(board: Board) -> None:
    first, twin = assessment(board, 0), assessment(board, 1)
    units = board.open(first, out=set())
    assert board.open(twin, out={item for unit in units for item in unit.items}) == []
    for unit in units:
        board.take("r", dict.fromkeys(unit.items, 0.5))
    assert [entry.number for entry in board.complete("r")] == [0, 1]


def test_the_first_score_of_an_item_stays_and_unwanted_ones_are_not_learnt(board: Board) -> None:
    entry = assessment(board, 0)
    board.open(entry, out=set())
    item = entry.items[0]
    assert board.take("r", {item: 1.0, "nobody asked": 1.0}) == {item: 1.0}
    assert board.take("r", {item: 0.0}) == {}
    assert board.scores["r"] == {item: 1.0}


def test_the_measures_of_an_item_are_learnt_with_its_score_and_stay_with_it(board: Board) -> None:
    entry = assessment(board, 0)
    board.open(entry, out=set())
    item = entry.items[0]
    board.take("r", {item: 1.0, "nobody asked": 1.0}, {"tokens": {item: 7.0, "nobody asked": 3.0}})
    board.take("r", {item: 0.0}, {"tokens": {item: 9.0}})
    assert board.measures["r"] == {"tokens": {item: 7.0}}
    again = Board(board.pools)
    again.restore("r", "score", {item: 1.0})
    again.restore("r", "tokens", {item: 7.0})
    assert (again.scores, again.measures) == (board.scores, board.measures)


def test_a_lost_recipe_loses_everybody_who_waits_for_it(board: Board) -> None:
    board.open(assessment(board, 0), out=set())
    board.open(assessment(board, 1, start=15), out=set())
    board.open(assessment(board, 2, recipe="other"), out=set())
    assert [entry.number for entry in board.lose("r")] == [0, 1]
    assert board.missing("search") == 15


def test_the_name_of_an_item_is_one_object_whoever_sends_it(board: Board) -> None:
    for number, recipe in enumerate(("r", "s")):
        units = board.open(assessment(board, number, recipe), out=set())
        sent = {"".join([*item]): 1.0 for item in units[0].items}  # as unpickled: equal, and not the same
        assert board.take(recipe, sent, {"tokens": {"".join([*item]): 2.0 for item in sent}}).keys() == sent.keys()
    names = [*board.scores["r"], *board.scores["s"], *board.measures["r"]["tokens"], *board.measures["s"]["tokens"]]
    assert len({id(name) for name in names}) == len({*names}) == len(names) / 4


def test_equal_items_have_one_score_the_first_that_came_as_a_restart_knows_it() -> None:
    inventory = make_inventory()
    first, second, third, *rest = inventory.items["search"]
    search = (first, replace(second, score_key=first.score_key), replace(third, score_key=first.score_key), *rest)
    pools = make_pools(make_campaign(), replace(inventory, items={**inventory.items, "search": search}))
    board, names = Board(pools), [item.key for item in (first, second, third, rest[0])]
    board.open(Assessment(0, "search", "r", tuple(names)), out=set())
    sent = dict(zip(names[1:], (0.25, 0.5, 0.75), strict=True))
    assert board.take("r", sent, {"tokens": sent}) == {names[1]: 0.25, names[3]: 0.75}
    assert board.scores["r"] == board.measures["r"]["tokens"] == dict(zip(names, (0.25, 0.25, 0.25, 0.75), strict=True))
    assert [entry.number for entry in board.complete("r")] == [0]
    assert board.take("r", {names[0]: 1.0}) == {}
