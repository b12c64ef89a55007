"""Tables of search traces, from traces that are made up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench import search_report
from bench.search import Trace

FAMILY = "made-seed0"


@pytest.fixture(autouse=True)
def best_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family whose best parent scores .5 and whose best known recipe .9: 90 % of the gain is .86."""
    path = tmp_path / "best.json"
    path.write_text(json.dumps({FAMILY: {"score": 0.9, "best_parent": 0.5}}))
    monkeypatch.setattr(search_report, "FILE", path)


def traces(name: str, marks: list[int], *, end: int) -> list[Trace]:
    """Runs that reach .87 after so many evaluations, and .89 never."""
    return [Trace(FAMILY, name, seed, (100, mark, end), (0.6, 0.87, 0.875)) for seed, mark in enumerate(marks)]


def test_evaluations_to_a_target_are_medians_and_their_ratio_is_that_of_the_medians() -> None:
    mine, theirs = traces("ours", [900, 1000, 1100], end=5000), traces("peer", [9_000, 10_000, 12_000], end=50_000)
    table = search_report.target_table(FAMILY, [*mine, *theirs])
    row = next(line for line in table.splitlines() if line.startswith("| 90%"))
    assert "(0.860)" in row
    assert "1.0k (0.9k to 1.1k)" in row
    assert "| 10.0 (" in row


def test_a_target_is_held_where_the_choices_of_the_last_fifth_are_as_good_on_average() -> None:
    lucky = Trace(FAMILY, "ours", 0, (300, 3000, 3300, 9000), (0.6, 0.9, 0.6, 0.87))
    assert lucky.reaches(0.86) == 3000
    assert lucky.holds(0.86, end=9000) is None
    held = lucky.holds(0.86, end=15_000)
    assert held is not None
    assert 9000 < held <= 11_400
    assert lucky.holds(0.89, end=15_000) is None


def test_what_was_not_reached_is_said_and_not_invented() -> None:
    mine, theirs = traces("ours", [900, 1000, 1100], end=5000), traces("peer", [9_000, 10_000, 12_000], end=50_000)
    table = search_report.target_table(FAMILY, [*mine, *theirs])
    row = next(line for line in table.splitlines() if line.startswith("| 95%"))
    assert "> 5k" in row
    assert "0 of 3 runs" in row
    assert row.endswith("| – |")


def test_scores_at_equal_evaluations_leave_out_what_a_side_never_spent() -> None:
    table = search_report.score_table(FAMILY, [*traces("ours", [900], end=5000), *traces("peer", [9000], end=60_000)])
    mine = next(line for line in table.splitlines() if line.startswith("| mergefleet"))
    assert ".870 (.870 to .870)" in mine
    assert mine.endswith("– |")


def test_layers_against_global_weights_are_compared_item_by_item() -> None:
    items = np.tile([1.0, 1.0, 0.0, 1.0], 100)
    worse = items.copy()
    worse[:40] = 0.0
    row = search_report.ladder({FAMILY: (items, worse)}).splitlines()[-1]
    assert "| 0.750 | 0.675 | +0.075 (+0.0" in row
