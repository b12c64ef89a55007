"""Memory for rows is lent to one block at a time, and never grows beyond what was lent at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.execution.worker import RowPool


def start(array: object) -> int:
    return int(array.__array_interface__["data"][0])  # type: ignore[attr-defined]


@given(st.lists(st.tuples(st.sampled_from([64, 128]), st.integers(1, 5)), max_size=20))
def test_what_is_lent_is_nobody_elses_and_is_reused_once_it_is_back(rounds: list[tuple[int, int]]) -> None:
    pool = RowPool()
    before: tuple[int, set[int]] = (0, set())
    for nbytes, count in rounds:
        lent = [pool.take(nbytes) for _ in range(count)]
        places = {start(array) for array in lent}
        assert len(places) == count
        assert all(array.nbytes == nbytes for array in lent)
        if before[0] == nbytes:
            assert len(places & before[1]) >= min(count, len(before[1]))
            before = (nbytes, before[1] | places)
        else:
            before = (nbytes, places)
        pool.give(lent)


def test_what_comes_back_after_the_size_has_changed_is_let_go() -> None:
    pool = RowPool()
    late = pool.take(64)
    pool.give([pool.take(128)])
    pool.give([late])
    assert pool.take(128).nbytes == 128
    assert {pool.take(128).nbytes for _ in range(3)} == {128}
