"""A model from outside on a campaign's items: whoever meets the holdout stands in the ledger first, for all to read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from simulated import SimulatedEvaluator, campaign_data, make_campaign, make_inventory, open_simulated

from engine.errors import CampaignError, EvaluationError, InputError, MergefleetError, Refused
from search.evaluating import evaluate, load_suite
from search.inline import run_inline, work_once
from search.ports import Inventory
from search.report.tables import ledger_table
from search.results import results_of
from search.run import RunDirectory, open_store
from search.store import schema
from search.store.forking import fork

SMALL = {
    "budget": {"items": 450},
    "items": {"window": {0: 15}, "block_size": 40, "selection": 20, "holdout": 40},
    "selection": {"top": 2, "means": 1, "soup": 0},
}


class HalfRight:
    """Scores every second item of a block as right, or breaks."""

    def __init__(self, inventory: Inventory | None = None, *, broken: bool = False) -> None:
        self._inventory, self._broken = inventory or make_inventory(), broken

    def inventory(self) -> Inventory:
        return self._inventory

    def rescore(self, directory: Path, blocks: Iterable[Sequence[str]]) -> dict[str, float]:
        if self._broken:
            raise EvaluationError("out of memory")
        return {item: float(place % 2) for block in blocks for place, item in enumerate(block)}


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "models" / "rival"
    folder.mkdir(parents=True)
    save_file({"model.norm.weight": np.ones(4, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 1}))
    return str(folder)


def visits(coordinator: Any) -> list[Any]:
    return coordinator.run.store.rows(schema.VISITS)


def test_a_visit_to_the_holdout_is_in_the_ledger_the_verdict_and_the_report(tmp_path: Path, model: str) -> None:
    directory, campaign = RunDirectory(tmp_path / "run"), make_campaign(**SMALL)
    coordinator = open_simulated(directory.root, campaign)
    work_once(coordinator, SimulatedEvaluator(), worker="a")
    found = evaluate(model, campaign, split="holdout", rescorer=HalfRight(), directory=directory)  # while it runs
    assert found.split == "holdout"
    assert sum(items for _, _, items in found.tasks.values()) == 120
    (visit,) = visits(coordinator)
    assert (visit["model"], visit["items"], len(visit["weights"])) == (model, 120, 64)
    assert "@" in visit["who"]
    verdict = run_inline(coordinator, SimulatedEvaluator())
    assert verdict is not None
    (note,) = [note for note in verdict.notes if "met before the verdict" in note]
    assert model in note
    row = coordinator.run.store.find("simulated")
    results = results_of(coordinator.run.store, row)
    assert ledger_table(results).rows[-1][:3] == (model, f"evaluated by {visit['who']}", "120")
    assert len(ledger_table(results).rows) == len(results.ledger) + 1


def test_another_campaign_of_the_store_with_these_items_is_told_of_the_visit(tmp_path: Path, model: str) -> None:
    store = str(tmp_path / "shared.sqlite")
    first, other = (make_campaign(**SMALL, store=store, name=name) for name in ("first", "other"))
    open_simulated(tmp_path / "a", first).close()
    evaluate(model, first, split="holdout", rescorer=HalfRight(), directory=RunDirectory(tmp_path / "a"))
    coordinator = open_simulated(tmp_path / "b", other)
    keys = [coordinator.run.pools.score_key_of[item] for item in coordinator.run.pools.all("holdout")]
    assert coordinator.run.store.holdouts_met(keys) == {"first": 120}
    assert coordinator.run.store.holdouts_met([]) == {}


def test_a_fork_knows_of_the_visits_to_its_origin(tmp_path: Path, model: str) -> None:
    origin = make_campaign(**SMALL)
    coordinator = open_simulated(tmp_path / "a", origin)
    work_once(coordinator, SimulatedEvaluator(), worker="a")
    evaluate(model, origin, split="holdout", rescorer=HalfRight(), directory=RunDirectory(tmp_path / "a"))
    branch = make_campaign(**SMALL, name="branch")
    with open_store(branch, RunDirectory(tmp_path / "b")) as store:
        fork(coordinator.run.store, branch, store, at=None, now=1.0)
        assert [row["model"] for row in store.rows(schema.VISITS)] == [model]


def test_the_ledger_is_written_before_anything_is_scored_and_keeps_every_visit(tmp_path: Path, model: str) -> None:
    directory, campaign = RunDirectory(tmp_path / "run"), make_campaign(**SMALL)
    coordinator = open_simulated(directory.root, campaign)
    for count in (1, 2):
        with pytest.raises(EvaluationError, match="out of memory"):
            evaluate(model, campaign, split="holdout", rescorer=HalfRight(broken=True), directory=directory)
        assert len(visits(coordinator)) == count
    evaluate(model, campaign, split="selection", rescorer=HalfRight(), directory=directory)
    assert len(visits(coordinator)) == 2  # other splits are nobody's secret


def test_where_no_ledger_could_tell_of_it_the_holdout_stays_sealed(tmp_path: Path, model: str) -> None:
    directory, campaign = RunDirectory(tmp_path / "run"), make_campaign(**SMALL)

    def visit(model: str, **changes: Any) -> None:
        evaluate(model, campaign, **{"split": "holdout", "rescorer": HalfRight(), "directory": directory, **changes})

    with pytest.raises(Refused, match="is no campaign"):
        visit(model, directory=None)
    with pytest.raises(CampaignError, match=r"holds no run of campaign 'simulated'.*--run-dir"):
        visit(model)
    assert not directory.root.exists()
    coordinator = open_simulated(directory.root, campaign)
    others = make_inventory({"search": 120, "selection": 100, "holdout": 199})
    with pytest.raises(CampaignError, match="are not those of the run"):
        visit(model, rescorer=HalfRight(others))
    with pytest.raises(MergefleetError):
        visit(str(tmp_path / "nowhere"))
    assert visits(coordinator) == []


def suite(path: Path, data: Any) -> Path:
    path.write_text(yaml.safe_dump(data))
    return path


def test_a_tasks_file_is_enough_and_a_campaign_is_recognized(tmp_path: Path, model: str) -> None:
    data = campaign_data()
    campaign, whole = load_suite(suite(tmp_path / "c.yml", data))
    assert whole
    assert campaign.name == "simulated"
    parts = {"tasks": data["tasks"], "items": {"selection": 20}, "seed": 3}
    tasks, whole = load_suite(suite(tmp_path / "t.yml", parts))
    assert not whole
    assert [task.name for task in tasks.tasks] == [task["name"] for task in data["tasks"]]
    found = evaluate(model, tasks, split="selection", rescorer=HalfRight())
    assert [items for _, _, items in found.tasks.values()] == [20, 20, 20]


def test_the_tasks_file_of_the_page_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "publishing.md").read_text(encoding="utf-8")
    _, whole = load_suite(suite(tmp_path / "t.yml", yaml.safe_load(page.split("```yaml")[1].split("```")[0])))
    assert not whole


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"task": []}, "t.yml: task: unknown key; did you mean 'tasks'"),
        ({"include_path": "x"}, "t.yml: tasks: is missing"),
        ({"tasks": [{"name": "a", "serach": "b"}]}, r"t.yml: tasks\[0\].serach: unknown key; did you mean 'search'"),
        (["tasks"], "t.yml: got .*, a mapping expected"),
    ],
)
def test_what_is_wrong_with_a_tasks_file_is_said_by_its_key(tmp_path: Path, data: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_suite(suite(tmp_path / "t.yml", data))
