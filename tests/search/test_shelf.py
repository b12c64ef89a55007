"""A shelf is what a tuple would be after the same changes, and all that it was made from stay as they were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.shelf import PART, Shelf


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3 * PART), st.integers()), max_size=80), st.integers(0, 70))
def test_a_shelf_is_the_tuple_of_its_changes(changes: list[tuple[bool, int, int]], start: int) -> None:
    shelf, items = Shelf(range(start)), tuple(range(start))
    history = [(shelf, items)]
    for adds, place, value in changes:
        if adds or not items:
            shelf, items = shelf.plus(value), (*items, value)
        else:
            index = place % len(items)
            shelf, items = shelf.changed(index, value), (*items[:index], value, *items[index + 1 :])
        history.append((shelf, items))
    for made, expected in history:
        assert tuple(made) == expected
        assert len(made) == len(expected)
    assert [shelf[index] for index in range(-len(items), len(items))] == [*items, *items]
    assert shelf[1:-1] == items[1:-1]
    assert shelf == Shelf(items)
    assert hash(shelf) == hash(Shelf(items))
    assert shelf != Shelf((*items, 0))


@pytest.mark.parametrize("index", [-4, 3, 100])
def test_what_is_not_there_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError):
        Shelf("abc")[index]


def test_a_change_copies_one_part_and_shares_the_others() -> None:
    shelf = Shelf(range(10 * PART))
    changed = shelf.changed(PART, -1)
    assert [ours is theirs for ours, theirs in zip(shelf._parts, changed._parts, strict=True)] == [True, False] + [
        True
    ] * 8
