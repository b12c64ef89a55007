"""Several campaigns in one store: equal items of equal recipes are scored once, for all of them (T9)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import simulated
from simulated import SimulatedEvaluator, make_campaign, make_inventory, open_simulated

from engine.errors import CampaignError, OutputExists
from search.inline import run_inline, work_once
from search.results import results_of
from search.store import schema

SMALL = {
    "budget": {"items": 500},
    "items": {"window": {0: 15}, "block_size": 40, "selection": 20, "holdout": 30},
    "selection": {"top": 1, "means": 1, "soup": 0},
}


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "shared.sqlite")
    return str(request.getfixturevalue("postgres_url"))


def named(name: str, store: str, **changes: Any) -> Any:
    return make_campaign(**(SMALL | {"name": name, "store": store} | changes))


def test_a_campaign_of_another_name_repeats_a_finished_one_without_one_evaluation(store: str, tmp_path: Path) -> None:
    first = open_simulated(tmp_path / "a", named("a", store))
    verdict = run_inline(first, SimulatedEvaluator())
    evaluator = SimulatedEvaluator()
    second = open_simulated(tmp_path / "b", named("b", store))
    again = run_inline(second, evaluator)
    assert evaluator.seen == []
    assert verdict is not None
    assert again is not None
    assert again.comparisons == verdict.comparisons
    rows = [campaign.run.store.find(name) for campaign, name in ((first, "a"), (second, "b"))]
    paid = [results_of(campaign.run.store, row or {}) for campaign, row in zip((first, second), rows, strict=True)]
    assert sum(paid[0].items_spent.values()) > 500
    assert sum(paid[1].items_spent.values()) == 0
    shared = [replace(entry, lease=f"1/{entry.lease}") for entry in paid[0].item_scores]
    assert list(paid[1].item_scores) == shared
    assert [c.weights_digest for c in paid[1].candidates] == [c.weights_digest for c in paid[0].candidates]
    assert [entry.candidate for entry in paid[1].ledger] == [entry.candidate for entry in paid[0].ledger]
    assert any("met before by campaign 'a'" in note for note in again.notes)


def test_campaigns_with_other_item_subsets_share_what_they_have_in_common(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second knows fewer items, in another order; what it needs anew are those outside the first one's windows."""
    store = str(tmp_path / "shared.sqlite")
    first = open_simulated(tmp_path / "a", named("a", store))
    run_inline(first, SimulatedEvaluator())
    scored = {(row["recipe_hash"], row["item"]) for row in first.run.store.rows(schema.ITEM_SCORES)}
    fewer = {"search": 90, "selection": 50, "holdout": 60}
    monkeypatch.setattr(simulated, "make_inventory", lambda: keyed(make_inventory(fewer)))  # type: ignore[arg-type]
    evaluator = SimulatedEvaluator()
    second = open_simulated(tmp_path / "b", named("b", store, seed=5))
    while second.status().phase == "search":
        work_once(second, evaluator, worker="w")
    hashes = [row["recipe_hash"] for row in second.run.store.rows(schema.CANDIDATES)]
    asked = {(hashes[number], item) for number, item in evaluator.seen}
    assert asked
    assert not asked & scored


def keyed(inventory: Any) -> Any:
    """An evaluator of other items has another evaluation key; its items' score keys are the same."""
    return replace(inventory, key="simulated-2")


def test_the_same_name_twice_is_one_campaign(tmp_path: Path) -> None:
    store = str(tmp_path / "shared.sqlite")
    first = open_simulated(tmp_path / "a", named("a", store))
    work_once(first, SimulatedEvaluator(), worker="w")
    first.close()
    with pytest.raises(OutputExists, match="holds a run of campaign 'a'"):
        open_simulated(tmp_path / "b", named("a", store))


def test_a_directory_that_cannot_be_a_store_is_an_error_at_start(tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match="store: got mysql"):
        open_simulated(tmp_path, named("a", "mysql://h/db"))
