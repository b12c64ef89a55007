"""Which candidate is which: models of the same weights are two where what lies beside these differs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from simulated import LAYERS, Clock, make_campaign, make_inventory, uniform

from search.campaign_file import Campaign
from search.evaluators.plans import Plans
from search.inline import run_inline, work_once
from search.opening import Start, open_coordinator
from search.ports import BlockResult, Inventory, Work
from search.results import Results
from search.run import RunDirectory, Services
from search.session import open_session
from search.store import schema
from search.whereabouts import models_noted

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo" / "models"
STAGES = [{"name": "global", "by": "global", "population": 5}]


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    """`turned` has the base's weights, and turns positions otherwise."""
    turned = tmp_path / "turned"
    shutil.copytree(DEMO / "base", turned)
    config = json.loads((turned / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 500.0
    (turned / "config.json").write_text(json.dumps(config))
    return make_campaign(
        base_model=str(DEMO / "base"),
        sources=[str(DEMO / "letters"), str(turned)],
        baselines=["uniform"],
        space={"parameters": {"weight": {"low": 0, "high": 1, "start": 0.5}}, "stages": STAGES},
        budget={"candidates": 10},
        items={"window": {0: 15}, "selection": 20, "holdout": 20},
    )


class ByConfig:
    """Who has the other config is right less often; whether it is who was asked for is looked at as by a real one."""

    def __init__(self, campaign: Campaign) -> None:
        self.plans = Plans.of(campaign)

    def inventory(self) -> Inventory:
        return make_inventory()

    def evaluate(self, work: Work) -> BlockResult:
        planned = self.plans.expected(work.recipe, work.recipe_hash)
        share = 0.2 if planned.plan.config["rope_parameters"]["rope_theta"] == 500.0 else 0.6
        scores = {item: float(uniform(item) < share) for item in work.items}
        return BlockResult(work.lease, planned.recipe_hash, planned.weights_hash, scores)

    def close(self) -> None:
        self.plans.close()


def ended(campaign: Campaign, folder: Path, *, resume: bool) -> Results:
    """What came of it, on the real models."""
    coordinator = open_session(campaign, make_inventory(), directory=RunDirectory(folder), resume=resume)
    run_inline(coordinator, ByConfig(campaign))
    return coordinator.close()


def test_a_source_with_the_bases_weights_and_another_config_is_scored_as_itself(
    campaign: Campaign, tmp_path: Path
) -> None:
    results = ended(campaign, tmp_path / "run", resume=False)
    assert results.verdict is not None
    scores = {comparison.label: comparison.score for comparison in results.verdict.comparisons}
    assert scores["base"] > 0.4 > scores["parent turned"]
    engine = Plans()
    others = {row.label for row in results.candidates if row.recipe_hash != engine.hash_of(row.recipe)}
    assert others == {"parent turned"}  # all others keep the engine's hashes


def test_a_run_that_went_by_weights_alone_goes_on_with_its_rows_as_they_are(campaign: Campaign, tmp_path: Path) -> None:
    start, services = Start(RunDirectory(tmp_path / "run"), LAYERS), Services(Plans().hash_of, Clock())
    former = open_coordinator(campaign, make_inventory(), start=start, services=services)
    for _ in range(5):
        assert work_once(former, ByConfig(campaign), worker="w") is None
    begun = [row["recipe_hash"] for row in former.run.store.rows(schema.CANDIDATES)]
    former.close()
    assert len({*begun}) < len(begun)
    results = ended(campaign, tmp_path / "run", resume=True)
    assert [row.recipe_hash for row in results.candidates][: len(begun)] == begun
    assert results.verdict is not None


def test_a_run_notes_what_lies_beside_its_models_when_it_begins_and_goes_on_with_that(
    campaign: Campaign, tmp_path: Path
) -> None:
    def opened(name: str, *, resume: bool) -> dict[str, str]:
        directory = RunDirectory(tmp_path / name)
        coordinator = open_session(campaign, make_inventory(), directory=directory, resume=resume)
        work_once(coordinator, ByConfig(campaign), worker="w")
        coordinator.close()
        return dict(models_noted(directory)[campaign.sources[1].model])

    first = opened("run", resume=False)
    assert {"config.json", "tokenizer.json"} <= first.keys()
    turned = Path(campaign.sources[1].model)
    (turned / "chat_template.jinja").write_text("{{ messages }}")
    assert opened("run", resume=True) == first
    assert opened("other", resume=False).keys() - first.keys() == {"chat_template.jinja"}
