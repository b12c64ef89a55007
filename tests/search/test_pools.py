"""Windows and blocks: stratified, nested, the same for everybody; and no item on both sides of a split."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import SKILLS, make_campaign, make_inventory

from engine.errors import CampaignError
from search.pools import Pools, check_overlap, interleave, make_pools
from search.ports import Inventory, Item


def pools(**changes: object) -> Pools:
    return make_pools(make_campaign(**changes), make_inventory())


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_every_prefix_of_an_interleaving_holds_each_column_in_proportion(sizes: list[int]) -> None:
    columns = [[f"{column}/{row}" for row in range(size)] for column, size in enumerate(sizes)]
    order = interleave(columns)
    assert sorted(order) == sorted(item for column in columns for item in column)
    for length in range(len(order) + 1):
        counts = Counter(item.split("/")[0] for item in order[:length])
        for column, size in enumerate(sizes):
            share = size / len(order)  # each column is within half an item of its share of a position
            assert abs(counts[str(column)] - length * share) <= 0.5 + share * len(sizes) / 2 + 1e-9


def test_a_window_has_equally_many_items_of_every_task_and_stratum() -> None:
    window = pools().window(0, 60)
    assert Counter(item.split("_")[0] for item in window) == dict.fromkeys(SKILLS, 20)
    easy = sum(int(item[-4:]) % 5 < 2 for item in window)
    assert easy == 24  # two of five


def test_windows_that_follow_each_other_use_every_item_once_before_any_comes_again() -> None:
    p = pools()
    seen = [item for start in range(0, 360, 15) for item in p.window(start, 15)]
    assert len(seen) == len(set(seen)) == p.size("search") == 360
    assert p.window(360, 15) == p.window(0, 15)


def test_windows_that_grow_are_nested() -> None:
    p = pools()
    windows = [set(p.window(30, size)) for size in (15, 30, 75, 150)]
    assert all(small < large for small, large in pairwise(windows))


def test_a_window_larger_than_a_task_holds_each_item_once() -> None:
    window = pools().window(7, 10_000)
    assert len(window) == len(set(window)) == 360


def test_blocks_cover_everything_once_and_stay_within_their_size() -> None:
    p = pools(items={"window": {0: 15}, "block_size": 64})
    blocks = p.blocks(p.all("holdout"))
    assert [item for block in blocks for item in block] == list(p.all("holdout"))
    assert max(map(len, blocks)) <= 64
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


def test_the_order_depends_on_seed_and_keys_alone() -> None:
    inventory = make_inventory()
    shuffled = Inventory(inventory.key, {split: items[::-1] for split, items in inventory.items.items()})
    again = make_pools(make_campaign(), shuffled)
    assert again.ordered == pools().ordered
    assert pools(seed=2).ordered != pools().ordered


def test_a_cap_keeps_a_stratified_prefix() -> None:
    capped = pools(items={"window": {0: 15}, "holdout": 50})
    assert capped.size("holdout") == 150
    assert capped.ordered["holdout"]["letters"] == pools().ordered["holdout"]["letters"][:50]


def test_holdout_items_that_occur_in_the_search_are_refused_by_content_and_named() -> None:
    inventory = make_inventory()
    leaked = replace(inventory.items["holdout"][3], content=inventory.items["search"][5].content)
    items = {**inventory.items, "holdout": (*inventory.items["holdout"], replace(leaked, key="letters_holdout/leak"))}
    with pytest.raises(
        CampaignError, match=r"letters_holdout/leak \(holdout\) = letters_search/0005 \(search\)"
    ) as got:
        check_overlap(Inventory("k", items), origin="c.yml")
    assert got.value.exit_code == 2


def test_equal_items_within_one_split_are_no_leak() -> None:
    twins = tuple(Item(f"a_search/{index}", "letters", "same") for index in range(2))
    check_overlap(Inventory("k", {"search": twins, "selection": (), "holdout": ()}), origin="c.yml")


def test_a_task_without_items_in_a_split_is_named() -> None:
    inventory = make_inventory()
    items = {**inventory.items, "holdout": tuple(i for i in inventory.items["holdout"] if i.task != "numerals")}
    with pytest.raises(CampaignError, match="task 'numerals' has no holdout items"):
        make_pools(make_campaign(), Inventory("k", items))


def test_a_key_that_occurs_twice_is_refused() -> None:
    items = {"search": (Item("x", "letters", "a"), Item("x", "letters", "b")), "selection": (), "holdout": ()}
    with pytest.raises(CampaignError, match="'x' occurs twice"):
        check_overlap(Inventory("k", items), origin="c.yml")
