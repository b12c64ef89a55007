"""One place cut in three: disjoint by what items say, stratified, and the same whatever the order of the file."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import CampaignError
from search.evaluators.entries import SplitEntry, TaskEntry
from search.evaluators.splitting import cut, items_of
from search.ports import SPLITS, Item

CUT = SplitEntry(search=0.5, selection=0.2, holdout=0.3)


def made(count: int, *, strata: int = 1, copies: int = 1) -> list[Item]:
    """Items of which `copies` in a row say the same."""
    return [Item(f"t/{n}", "t", f"c{n}", f"s{n % strata}", text=f"says {n // copies}") for n in range(count)]


@given(count=st.integers(1, 60), strata=st.integers(1, 3), copies=st.integers(1, 4), seed=st.text(max_size=3))
def test_no_two_splits_share_an_item_or_what_one_says(count: int, strata: int, copies: int, seed: str) -> None:
    parts = cut(made(count, strata=strata, copies=copies), CUT, seed=seed, where="w")
    said = [{item.text for item in parts[split]} for split in SPLITS]
    assert sum(map(len, said)) == len(set().union(*said))
    assert sum(len(parts[split]) for split in SPLITS) == count  # the fractions sum to 1
    assert all(list(part) == sorted(part, key=lambda item: int(item.key[2:])) for part in parts.values())


def test_sizes_are_those_asked_for_and_each_stratum_has_its_share() -> None:
    parts = cut(made(200, strata=2), CUT, seed="0", where="w")
    assert [len(parts[split]) for split in SPLITS] == [100, 40, 60]
    assert all(abs(Counter(i.stratum for i in part)["s0"] - len(part) / 2) <= 1 for part in parts.values())
    counts = cut(made(200), SplitEntry(search=30, selection=20, holdout=10), seed="0", where="w")
    assert [len(counts[split]) for split in SPLITS] == [30, 20, 10]


def test_the_cut_depends_on_seed_and_content_and_not_on_the_order_of_the_file() -> None:
    items = made(60)
    keys = [{item.key for item in cut(order, CUT, seed="0", where="w")["holdout"]} for order in (items, items[::-1])]
    assert keys[0] == keys[1]
    assert keys[0] != {item.key for item in cut(items, CUT, seed="1", where="w")["holdout"]}


def test_counts_beyond_the_items_that_are_there_are_refused() -> None:
    with pytest.raises(CampaignError, match="w, split: asks for 60 items, 50 are there"):
        cut(made(50), SplitEntry(search=30, selection=20, holdout=10), seed="0", where="w")


@pytest.mark.parametrize(
    ("items", "place", "says"),
    [
        (
            made(1),
            "text",
            "no selection items: 1 are there, 1 different ones, .* a longer text, another `chunk`, or",
        ),
        (
            made(90, copies=45),
            "text",
            "no holdout items: 90 are there, 2 different ones, one of which 45 times, and equal",
        ),
        (
            made(2),
            "task",
            "no selection items: 2 are there, 2 different ones, .* Give it more items, or other shares",
        ),
    ],
)
def test_a_split_that_gets_nothing_is_refused_with_the_reason(items: list[Item], place: str, says: str) -> None:
    entry = TaskEntry(**{"name": "t", place: "x", "split": CUT})
    with pytest.raises(CampaignError, match=rf"^c\.yml: task 't', split: leaves {says}"):
        items_of([entry], lambda *_: items, seed=0, origin="c.yml")
