"""Warm starts: the best points of earlier campaigns on the same sources, where they are the same models here."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import cmaes
import numpy as np
import pytest
from simulated import (
    LAYERS,
    SKILLS,
    SimulatedEvaluator,
    campaign_data,
    hash_recipe,
    make_campaign,
    open_simulated,
)

from engine.errors import CampaignError
from search.inline import run_inline
from search.samplers.distributions import warm_distribution
from search.space import make_space
from search.space.sequence import LayerSequence
from search.store import schema
from search.warm import called_here, point_here, ranges


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
    assert [len(points) for points in elites.values()] == [8, 8]  # a tenth is less
    coordinator.close()
    (place / "campaign.sqlite").unlink()
    again = open_simulated(tmp_path / "run", campaign, resume=True)
    assert again.run.elites == elites
    again.close()


def test_a_run_of_an_earlier_version_whose_hashes_were_others_is_known_by_those(earlier: Path, tmp_path: Path) -> None:
    campaign = make_campaign(warm_start=[str(earlier)])

    def other(recipe: Mapping[str, Any]) -> str:
        return hash_recipe(recipe)[::-1]

    with pytest.raises(CampaignError, match="was searched on other models: base, parent letters"):
        open_simulated(tmp_path / "others", campaign, hash_recipe=other)
    coordinator = open_simulated(tmp_path / "run", campaign, hash_recipe=other, former_hash=hash_recipe)
    assert set(coordinator.run.elites) == {0, 1}
    coordinator.close()


def test_samplers_without_a_distribution_score_the_best_points_again_first(earlier: Path, tmp_path: Path) -> None:
    stages = [{"name": "any name", "by": "global", "population": 6, "sobol": 2}]
    space = {**campaign_data()["space"], "stages": stages}
    campaign = make_campaign(space=space, sampler="niches", warm_start=[str(earlier)], budget={"candidates": 28})
    coordinator = open_simulated(tmp_path, campaign)
    run_inline(coordinator, SimulatedEvaluator())
    drawn = [row["params"] for row in coordinator.run.store.rows(schema.CANDIDATES) if row["origin"] == "sampler"]
    assert drawn[:8] == [point for point, _ in coordinator.run.elites[0][:8]]
    coordinator.close()


def test_a_finer_stage_without_a_distribution_begins_with_its_own_best_points(earlier: Path, tmp_path: Path) -> None:
    budget = {"candidates": 70}
    coordinator = open_simulated(tmp_path, make_campaign(sampler="niches", warm_start=[str(earlier)], budget=budget))
    run_inline(coordinator, SimulatedEvaluator())
    rows = [row for row in coordinator.run.store.rows(schema.CANDIDATES) if row["origin"] == "sampler"]
    for stage, elites in coordinator.run.elites.items():
        assert [row["params"] for row in rows if row["stage"] == stage][:8] == [point for point, _ in elites[:8]]
    assert set(coordinator.run.elites) == {0, 1}
    coordinator.close()


def test_an_earlier_campaign_that_scored_baselines_only_is_told_as_that(tmp_path: Path) -> None:
    begun, units = open_simulated(tmp_path / "begun", make_campaign(name="begun")), iter(range(5))
    run_inline(begun, SimulatedEvaluator(), stop=lambda: next(units, None) is None)
    begun.close()
    with pytest.raises(CampaignError, match=r"warm_start\[0\]: .*begun: no point of its search is scored yet"):
        open_simulated(tmp_path / "run", make_campaign(warm_start=[str(tmp_path / "begun")]))


def by_content(recipe: Mapping[str, Any]) -> str:
    """A hash that sees what a model holds: copies are named after it, in folders of their own; order counts, as it does
    where it rounds sums and draws masks."""
    models = [{**model, "model": model["model"].rsplit("/", 1)[-1][:6]} for model in recipe["models"]]
    return hash_recipe({**recipe, "models": models, "base_model": "base"})


def test_the_same_sources_in_other_places_under_other_names_and_in_another_order_are_the_same(tmp_path: Path) -> None:
    first = open_simulated(tmp_path / "one", make_campaign(name="one", budget={"items": 700}), hash_recipe=by_content)
    run_inline(first, SimulatedEvaluator())
    first.close()
    known = dict.fromkeys(row["params"].get("weight/letters") for row in first.run.store.rows(schema.CANDIDATES))
    copies = [{"model": f"copies/{skill}-copy", "name": f"my-{skill}"} for skill in reversed(SKILLS)]
    campaign = make_campaign(sources=copies, base_model="copies/base", warm_start=[str(tmp_path / "one")])
    warm = open_simulated(tmp_path / "two", campaign, hash_recipe=by_content)
    axes = warm.run.space.stages[0].by_name.keys()
    assert {frozenset(point) for point, _ in warm.run.elites[0]} == {frozenset(axes)}
    assert {point["weight/my-letters"] for point, _ in warm.run.elites[0]} <= known.keys()
    warm.close()


def test_a_layer_sequence_finds_its_sources_under_their_new_names() -> None:
    theirs = LayerSequence(("letters", "plurals"), layers=3, places=2, fewest=2)
    ours = LayerSequence(("p", "l"), layers=3, places=2, fewest=2)
    names, axes = {"letters": "l", "plurals": "p"}, [*theirs.axes(["layers"])]
    here = [called_here(axis, theirs.sources, names) for axis in axes]
    assert ranges(here) == ranges(ours.axes(["layers"]))
    point = {"layers/0/source": "letters", "layers/0/layer": 1, "layers/1/source": "plurals", "layers/1/layer": 2}
    assert point_here(point, list(zip(axes, here, strict=True))) == {
        "layers/0/source": "l",
        "layers/0/layer": 1,
        "layers/1/source": "p",
        "layers/1/layer": 2,
    }


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
        ({"warm_start": ["EMPTY"]}, "is no run: there is no"),
        (
            {"warm_start": ["/etc/passwd"]},
            "/etc/passwd: holds no campaign; the directory of a run, or its campaign.sqli",
        ),
        ({"warm_start": ["OTHER"]}, "holds no campaign; the directory of a run, or its campaign.sqlite, expected"),
        (
            {"sources": ["models/letters", "models/plurals"]},
            "more models: its source numerals is not among the sources",
        ),
        ({"sources": ["models/letters", "models/numerals", "models/others"]}, "was searched on other models"),
        ({"space": {"method": "ties"}}, "none of its stages (global, layers) has points that are points here"),
        ({"space": {"parameters": {"weight": {"low": 0, "high": 0.3, "start": 0.1}}}}, "none of its stages"),
    ],
)
def test_an_earlier_campaign_that_does_not_fit_is_refused(
    changes: dict[str, Any], says: str, earlier: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with closing(sqlite3.connect(tmp_path / "optuna.sqlite")) as other:
        other.execute("CREATE TABLE studies (id)")
    names = {"STORE": "other.sqlite", "EMPTY": "empty", "OTHER": "optuna.sqlite"}
    places = {name: str(tmp_path / place) for name, place in names.items()}
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
