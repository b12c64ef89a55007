"""A short version of `make simulate`: verdicts of whole campaigns by chance alone, and fleets that lose workers."""

from __future__ import annotations

from pathlib import Path

from campaign_simulations import SHARED, Size, finish, fleet, judged


def test_where_everybody_is_equally_good_hardly_ever_a_winner_is_named() -> None:
    """T10 with 12 campaigns: P(more than 6 of 36 comparisons at 5 %) = 1 in 500; a winner has to beat all of them."""
    found = judged(12, size=Size(selection=20, holdout=60, budget=800))
    assert sum(entry.named for entry in found) == 0
    assert sum(beaten for entry in found for beaten in entry.parents) <= 6


def test_who_is_better_by_three_points_is_chosen_and_declared() -> None:
    """T10's other half with 3 campaigns, of which 94 % declare the planted mean: P(none does) = 1 in 4000."""
    found = judged(3, size=Size(selection=500, holdout=1200), planted=True, shared=SHARED)
    assert any(entry.named and entry.planted for entry in found)


def test_half_of_all_evaluators_preempted_every_minute_cost_less_than_a_tenth_of_what_survives(tmp_path: Path) -> None:
    """T3: leases expire without a word from the dead, and no candidate is lost for it."""
    found = fleet(tmp_path, workers=16, budget=12_000, preempted=0.5)
    assert found.counts["preempted"] >= 16
    assert found.used_s / found.alive_s >= 0.9
    assert finish(found.coordinator, found.evaluator) == 1.0
    state = found.coordinator._desk.live.state
    assert not [c for c in state.candidates if c.outcomes.get("search") and c.outcomes["search"].cause]
