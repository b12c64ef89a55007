"""The rate of item evaluations is that of the last minute, from the first scores in it on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.progress import RECENT_S, Progress


@given(st.lists(st.tuples(st.floats(0, 40), st.integers(1, 600)), min_size=1, max_size=30), st.floats(0, 90))
def test_the_rate_is_of_what_came_in_after_the_first_scores_of_the_last_minute(
    steps: list[tuple[float, int]], later: float
) -> None:
    progress, now, seen = Progress(started=0.0, seconds_before=0.0), 0.0, []
    for wait, items in steps:
        now += wait
        progress.count(items, now=now)
        seen.append((now, items))
        progress.rate(now)
    now += later
    recent = [(at, items) for at, items in seen if at >= now - RECENT_S]
    items = sum(items for _, items in recent[1:])
    elapsed = now - recent[0][0] if recent else 0.0
    assert progress.rate(now) == (pytest.approx(items / elapsed) if items and elapsed > 0 else None)


def test_workers_that_have_gone_are_forgotten() -> None:
    progress = Progress(started=0.0, seconds_before=0.0)
    for second in range(1000):
        progress.saw(f"spot-{second}", now=float(second))
        assert progress.others(f"spot-{second}", now=float(second)) == {
            f"spot-{n}" for n in range(max(0, second - int(RECENT_S) + 1), second)
        }
    assert len(progress._workers) <= RECENT_S + 1
