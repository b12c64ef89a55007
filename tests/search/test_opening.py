"""Whatever cannot work is said before anything is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from simulated import (
    LAYERS,
    Clock,
    SimulatedEvaluator,
    campaign_data,
    hash_recipe,
    make_campaign,
    make_inventory,
    open_simulated,
)

from engine.errors import CampaignError, InputsChanged
from search.inline import work_once
from search.opening import Start, check_budget, items_digest, open_coordinator
from search.ports import Inventory
from search.run import RunDirectory, Services


def opened(folder: Path, *, inventory: Inventory | None = None, layers: int = LAYERS, **changes: Any) -> None:
    start = Start(RunDirectory(folder / "run"), layers)
    services = Services(hash_recipe, Clock())
    open_coordinator(make_campaign(**changes), inventory or make_inventory(), start=start, services=services)


def leaky() -> Inventory:
    inventory = make_inventory()
    first, *rest = inventory.items["holdout"]
    leaked = replace(first, content=inventory.items["search"][0].content)
    return Inventory(inventory.key, {**inventory.items, "holdout": (leaked, *rest)})


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"inventory": leaky()}, r"1 items occur in two splits: letters_holdout/0000 \(holdout\)"),
        ({"layers": 2}, "got 3, the models have 2 layers"),
        ({"budget": {"items": 200}}, r"budget.items: got 200, at least 330 needed"),
        ({"budget": {"candidates": 20}}, r"budget.candidates: got 20, at least 22 needed"),
        ({"store": "mysql://host/db"}, "mysql"),
        ({"sampler": "tpe"}, "sampler: tpe searches one stage"),
        ({"warm_start": ["runs/nope"]}, r"warm_start\[0\]: runs/nope: is no path"),
    ],
)
def test_a_campaign_that_cannot_work_is_refused_and_leaves_no_run(
    facts: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(CampaignError, match=says):
        opened(tmp_path, **facts)
    assert not (tmp_path / "run").exists()


def test_a_budget_that_just_reaches_is_taken() -> None:
    budget = make_campaign(budget={"items": 330, "candidates": 22})
    check_budget(budget, 12, population=6, pool=[120] * 3)
    with pytest.raises(CampaignError, match="got 329, at least 330 needed"):
        check_budget(make_campaign(budget={"items": 329}), 12, population=6, pool=[120] * 3)


def test_before_items_are_known_a_budget_is_refused_only_where_none_could_do() -> None:
    check_budget(make_campaign(budget={"items": 66}), 12, population=6)
    with pytest.raises(CampaignError, match="got 65, at least 66 needed"):
        check_budget(make_campaign(budget={"items": 65}), 12, population=6)


def test_the_items_digest_changes_with_every_fact_about_an_item() -> None:
    inventory = make_inventory()
    digests = {items_digest(inventory)}
    for field in ("key", "task", "stratum", "content"):
        first, *rest = inventory.items["search"]
        changed = replace(first, **{field: "other"})
        digests.add(items_digest(Inventory("k", {**inventory.items, "search": (changed, *rest)})))
    assert len(digests) == 5


def test_a_run_whose_models_have_changed_is_not_continued(tmp_path: Path) -> None:
    """Else candidates before and after would be merges of different models, and the sampler would learn from both."""
    coordinator = open_simulated(tmp_path)
    for _ in range(20):
        assert work_once(coordinator, SimulatedEvaluator(), worker="w") is None
    coordinator.close()

    def hash_after_letters_changed(recipe: Mapping[str, Any]) -> str:
        return hash_recipe(recipe)[::-1] if "models/letters" in json.dumps(recipe) else hash_recipe(recipe)

    with pytest.raises(
        InputsChanged, match=r"its models have changed.*: parent letters, uniform, .* and \d+ more"
    ) as caught:
        open_simulated(tmp_path, resume=True, hash_recipe=hash_after_letters_changed)
    assert "parent numerals" not in caught.value.facts["changed"]
    open_simulated(tmp_path, resume=True).close()  # nothing was taken over, nothing written


def judged(**changes: Any) -> dict[str, Any]:
    """The simulated tasks, graded by a judge."""
    judge = {"base_url": "http://here:1/v1", "model": "m", "prompt": "{answer}"} | changes
    return {"tasks": [{**task, "judge": judge} for task in campaign_data()["tasks"]]}


def test_a_judge_may_be_asked_elsewhere_and_otherwise_when_a_run_is_continued_but_be_no_other(tmp_path: Path) -> None:
    coordinator = open_simulated(tmp_path, make_campaign(**judged()))
    assert work_once(coordinator, SimulatedEvaluator(), worker="w") is None
    coordinator.close()
    moved = {"base_url": "http://there:2/v1", "api_key_env": "KEY", "max_tokens": 999, "timeout_s": 5, "cache": "c"}
    again = open_simulated(tmp_path, make_campaign(**judged(**moved)), resume=True)
    again.close()
    stored = again.run.store.find("simulated")
    assert stored is not None
    assert stored["config"]["tasks"][0]["judge"]["base_url"] == "http://there:2/v1"
    with pytest.raises(InputsChanged, match=r"these inputs changed: tasks\[0\].judge.model: 'm' then, 'n' now; tasks"):
        open_simulated(tmp_path, make_campaign(**judged(**moved, model="n")), resume=True)
    start, services = Start(RunDirectory(tmp_path), LAYERS, resume=True), Services(hash_recipe, Clock())
    with pytest.raises(InputsChanged, match=r"judge.base_url: 'http://there:2/v1' then, 'http://here:1/v1' now; tasks"):
        open_coordinator(
            make_campaign(**judged()), replace(make_inventory(), key="new"), start=start, services=services
        )


def test_a_run_under_the_key_of_an_earlier_version_goes_on_under_the_present_one(tmp_path: Path) -> None:
    coordinator = open_simulated(tmp_path)
    assert work_once(coordinator, SimulatedEvaluator(), worker="w") is None
    coordinator.close()

    def opened_as(inventory: Inventory) -> str:
        start = Start(RunDirectory(tmp_path), LAYERS, resume=True)
        run = open_coordinator(make_campaign(), inventory, start=start, services=Services(hash_recipe, Clock()))
        run.close()
        found = run.run.store.find("simulated")
        assert found is not None
        return str(found["eval_key"])

    with pytest.raises(InputsChanged, match="the evaluation key"):
        opened_as(replace(make_inventory(), key="new", former_key="another"))
    assert opened_as(replace(make_inventory(), key="new", former_key=make_inventory().key)) == "new"
    assert opened_as(replace(make_inventory(), key="new")) == "new"
