"""What takes too long follows from what others took, and from nothing else."""

from __future__ import annotations

import math

from cluster.pace import OVERDUE_S, OVERDUE_TIMES, PATIENCE_S, Pace

MIB = 1 << 20


def test_without_anything_to_compare_nothing_is_overdue_and_patience_grows_with_the_weight() -> None:
    pace = Pace()
    assert pace.overdue_s(MIB) == math.inf
    assert pace.patience_s(MIB) == PATIENCE_S
    assert pace.patience_s(10**12) >= 10**6


def test_a_chunk_is_overdue_after_several_times_what_such_chunks_take() -> None:
    pace = Pace()
    for _ in range(50):
        pace.took(100 * MIB, 10.0)
    assert pace.overdue_s(200 * MIB) == OVERDUE_TIMES * 20.0
    assert pace.overdue_s(MIB) == OVERDUE_S
    assert pace.patience_s(200 * MIB) > pace.overdue_s(200 * MIB)


def test_one_slow_answer_does_not_make_the_others_wait_longer() -> None:
    pace = Pace()
    for _ in range(50):
        pace.took(100 * MIB, 10.0)
    before = pace.overdue_s(200 * MIB)
    pace.took(100 * MIB, 10_000.0)
    assert pace.overdue_s(200 * MIB) == before
