"""Warm starts: the best points of earlier campaigns on the same sources, where they are the same models here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cmaes
import numpy as np
import pytest
from simulated import LAYERS, SimulatedEvaluator, campaign_data, make_campaign, open_simulated

from engine.errors import CampaignError
from search import schema
from search.inline import run_inline
from search.samplers.distributions import warm_distribution
from search.space import make_space


def searched(folder: Path, **changes: Any) -> Any:
    """A coordinator whose campaign has ended."""
    coordinator = open_simulated(folder, make_campaign(**changes))
    run_inline(coordinator, SimulatedEvaluator())
    return coordinator


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    searched(folder, name="earlier", budget={"items": 1500}).close()
    return folder


def test_a_warm_search_starts_from_the_best_tenth_and_keeps_it_when_the_earlier_run_is_gone(
    earlier: Path, tmp_path: Path
) -> None:
    place = tmp_path / "copy"
    place.mkdir()
    (place / "campaign.sqlite").write_bytes((earlier / "campaign.sqlite").read_bytes())
    campaign = make_campaign(warm_start=[str(place)])
    coordinator = open_simulated(tmp_path / "run", campaign)
    elites = coordinator.run.elites
    assert set(elites) == {0, 1}
    assert all(8 <= len(points) <= 200 for points in elites.values())
    coordinator.close()
    (place / "campaign.sqlite").unlink()
    again = open_simulated(tmp_path / "run", campaign, resume=True)
    assert again.run.elites == elites
    again.close()


def test_samplers_without_a_distribution_score_the_best_points_again_first(earlier: Path, tmp_path: Path) -> None:
    stages = [{"name": "any name", "by": "global", "population": 6, "sobol": 2}]
    space = {**campaign_data()["space"], "stages": stages}
    campaign = make_campaign(space=space, sampler="niches", warm_start=[str(earlier)], budget={"candidates": 28})
    coordinator = open_simulated(tmp_path, campaign)
    run_inline(coordinator, SimulatedEvaluator())
    drawn = [row["params"] for row in coordinator.run.store.rows(schema.CANDIDATES) if row["origin"] == "sampler"]
    assert drawn[:8] == [point for point, _ in coordinator.run.elites[0][:8]]
    coordinator.close()


def test_a_campaign_in_the_same_store_is_named(tmp_path: Path) -> None:
    store = str(tmp_path / "shared.sqlite")
    searched(tmp_path / "one", name="one", store=store, budget={"items": 700}).close()
    other = open_simulated(tmp_path / "two", make_campaign(name="two", store=store, warm_start=["one"]))
    assert other.run.elites[0]
    other.close()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"warm_start": ["nowhere"]}, "nowhere: is no path"),
        ({"warm_start": ["nowhere"], "store": "STORE"}, "is neither a path nor a campaign in the store of this one"),
        ({"warm_start": ["EMPTY"]}, "holds no campaign.sqlite"),
        ({"sources": ["models/letters", "models/numerals", "models/others"]}, "was searched on other models"),
        ({"space": {"method": "ties"}}, "none of its stages (global, layers) has points that are points here"),
        ({"space": {"parameters": {"weight": {"low": 0, "high": 0.3, "start": 0.1}}}}, "none of its stages"),
    ],
)
def test_an_earlier_campaign_that_does_not_fit_is_refused(
    changes: dict[str, Any], says: str, earlier: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"STORE": str(tmp_path / "other.sqlite"), "EMPTY": str(tmp_path / "empty")}
    data = {"warm_start": [str(earlier)], **changes, "space": {**campaign_data()["space"], **changes.get("space", {})}}
    data["warm_start"] = [places.get(place, place) for place in data["warm_start"]]
    data |= {"store": places["STORE"]} if "store" in data else {}
    with pytest.raises(CampaignError) as caught:
        open_simulated(tmp_path / "run", make_campaign(**data))
    assert caught.value.message.startswith("simulated.yml: warm_start[0]: ")
    assert says in caught.value.message


def test_the_warm_distribution_is_that_of_the_library_written_without_a_determinant() -> None:
    stage, draw = make_space(make_campaign(), layers=LAYERS).stages[0], np.random.default_rng(0)
    points = [stage.from_unit(draw.random(len(stage.axes))) for _ in range(12)]
    found = warm_distribution(stage, [(point, 0.5) for point in points], sigma=0.15)
    mean, sigma, covariance = cmaes.get_warm_start_mgd([(stage.to_unit(p), 0.0) for p in points], gamma=1, alpha=0.15)
    assert found.mean == pytest.approx(mean)
    assert found.sigma**2 * np.asarray(found.covariance) == pytest.approx(sigma**2 * covariance)
